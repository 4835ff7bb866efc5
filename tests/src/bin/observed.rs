//! A pod of the platform that tells what it does: `observed --trace SOCKET [--liar SET] worker|replica --spec FILE`.
//! All else about it is the real thing. The last backup in line of the liar's set computes wrong results.

use bytes::Bytes;
use quorate::{
    function::{FunctionService, Operation},
    pod::{Attachment, PodSpec},
    replica, worker,
};
use quorate_dag::{Limits, Value};
use quorate_pbft::{
    Context, Group, Service, State, View,
    crypto::Principal,
    message::{Message, PrePrepare},
    runtime::Twist,
};
use quorate_tests::trace::{Tracer, What};
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let spec = PodSpec::read(Path::new(after("--spec").ok_or("--spec FILE")?))?;
    let trace = PathBuf::from(after("--trace").ok_or("--trace SOCKET")?);
    let attachment = Attachment::new(spec.replication.replicas());
    if arguments.iter().any(|argument| argument == "worker") {
        return Ok(worker::run(spec, attachment).await?);
    }
    let tracer = Arc::new(Tracer::new(&spec.pod, &trace));
    let last = Group::new(&spec.genesis()?).primary(View(3));
    let lies = after("--liar") == Some(&spec.set) && spec.index == Some(last.0);
    let service = Observed { function: FunctionService(spec.function()?), tracer: Arc::clone(&tracer), lies };
    let speaks = move |to: Principal, message: &Message| tell(&tracer, to, message);
    let twist = Twist(Box::new(move |_, to, message| {
        speaks(to, &message.body);
        Some(message)
    }));
    Ok(replica::run_as(spec, attachment, service, |setup| setup.twist = Some(twist)).await?)
}

/// Executes, and tells what.
struct Observed {
    function: FunctionService,
    tracer: Arc<Tracer>,
    lies: bool,
}

impl Service for Observed {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        self.tracer.tell(What::Executes { operation: shown(operation) });
        let result = self.function.execute(context, operation, state);
        if self.lies { [&result[..], &[0x55]].concat().into() } else { result }
    }
}

/// Tells what is said, where it is of a round or of a change of views.
fn tell(tracer: &Tracer, to: Principal, message: &Message) {
    let (view, sequence, operations) = match message {
        Message::PrePrepare(PrePrepare { view, sequence, batch }) => {
            let operations = batch.requests.iter().flat_map(|request| &request.body.operations);
            (view.0, sequence.0, operations.map(|operation| shown(operation)).collect())
        }
        Message::Prepare(prepare) => (prepare.view.0, prepare.sequence.0, Vec::new()),
        Message::Commit(commit) => (commit.view.0, commit.sequence.0, Vec::new()),
        Message::Reply(reply) => {
            let sequence = reply.answers.first().map_or(0, |answer| answer.sequence.0);
            (reply.view.0, sequence, Vec::new())
        }
        Message::ViewChange(change) => (change.view.0, 0, Vec::new()),
        Message::NewView(new) => (new.view.0, 0, Vec::new()),
        _ => return,
    };
    let to = match to {
        Principal::Replica(replica) => format!("replica-{}", replica.0),
        Principal::Client(_) => "worker".into(),
    };
    tracer.tell(What::Says { to, kind: format!("{:?}", message.kind()), view, sequence, operations });
}

/// An operation as in an expression.
fn shown(operation: &[u8]) -> String {
    let value = |bytes: &[u8]| {
        Value::from_bytes(bytes, &Limits::default()).map_or("?".into(), |value| value.to_string())
    };
    match Operation::from_bytes(operation) {
        Ok(Operation { function, left, right, .. }) => {
            let symbol = match function.name() {
                "add" => '+',
                "sub" => '-',
                "mul" => '*',
                _ => '/',
            };
            format!("{}{symbol}{}", value(left), value(right))
        }
        Err(error) => error.to_string(),
    }
}
