//! Arguments to one daemon or one command; nothing else.
fn main() {}
