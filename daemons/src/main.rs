//! Arguments to one daemon or one command; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::cli::main()
}
