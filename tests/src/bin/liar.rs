//! The platform's binary in which one replica lies: `LIAR=add-0:results` says in which set and how. All
//! else is the real thing, and the real binary can't be made to lie.
//!
//! * `results`: the last backup in line computes wrong results.
//! * `states`: the last backup in line vouches for states that nobody has.
//! * `batches`: the first primary orders one batch for half of the replicas and another one for the rest,
//!   and votes on both sides for what it told them.

use bytes::Bytes;
use quorate::{
    cli,
    function::FunctionService,
    pod::{Attachment, PodSpec, attach},
    replica,
};
use quorate_pbft::{
    Context, Group, ReplicaId, Sequence, Service, State, View,
    crypto::{Digest, Domain, Keychain, Kind, Principal},
    message::{Checkpoint, Commit, Message, PrePrepare, Prepare, state_statement, wire},
    runtime::Twist,
};
use std::{collections::HashMap, env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let after = |word: &str| Some(arguments.get(arguments.iter().position(|one| one == word)? + 1)?.as_str());
    let spec = after("replica").and_then(|_| after("--spec"));
    let Some(spec) = spec.and_then(|spec| PodSpec::read(Path::new(spec)).ok()) else { return cli::main() };
    let told = env::var("LIAR").expect("says who lies");
    let (set, how) = told.split_once(':').expect("SET:HOW");
    let group = Group::new(&spec.genesis().expect("a replica has a group"));
    let liar = group.primary(if how == "batches" { View(0) } else { View(3) });
    if spec.set != set || spec.index != Some(liar.0) {
        return cli::main();
    }
    eprintln!("{} lies about {how}", spec.pod);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ended = runtime.block_on(lie(spec, after("--attach"), how));
    ended.map_or_else(
        |error| {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

async fn lie(spec: PodSpec, attach: Option<&str>, how: &str) -> Result<(), replica::ReplicaError> {
    let replicas = spec.replication.replicas();
    let attachment = match attach {
        // As in Kubernetes, where nobody holds its pipes.
        Some(address) => {
            let wires = spec.wires().expect("it was given what it shows");
            attach::listen(address.parse().expect("an address"), replicas, &wires).await?
        }
        None => Attachment::new(replicas),
    };
    let function = FunctionService(spec.function()?);
    let twist: Box<dyn FnMut(&Keychain, Principal, &Message) -> Option<Message> + Send> = match how {
        "results" => {
            return replica::run_as(spec, attachment, WrongResults(function), |_| ()).await;
        }
        "states" => Box::new(wrong_state),
        "batches" => {
            let mut told = HashMap::new();
            Box::new(move |keys, to, message| other_batch(&mut told, keys, to, message))
        }
        other => panic!("nobody knows how to lie about {other}"),
    };
    replica::run_as(spec, attachment, function, |setup| setup.twist = Some(spoken(twist))).await
}

/// What a twisted body is on the wire: with the liar's own proof.
fn spoken(mut twist: Box<dyn FnMut(&Keychain, Principal, &Message) -> Option<Message> + Send>) -> Twist {
    Twist(Box::new(move |keys, to, message| {
        if message.sender != keys.me() {
            return Some(message); // somebody else's words, passed on
        }
        let Some(body) = twist(keys, to, &message.body) else { return Some(message) };
        Some(body.proven_by(keys, to))
    }))
}

/// Computes something, and answers something else.
struct WrongResults(FunctionService);

impl Service for WrongResults {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        let mut result = self.0.execute(context, operation, state).to_vec();
        result.push(0x55);
        result.into()
    }
}

fn wrong_state(keys: &Keychain, _: Principal, message: &Message) -> Option<Message> {
    let Message::Checkpoint(checkpoint) = message else { return None };
    let mut state = checkpoint.state;
    state.0[0] ^= 1;
    let statement = state_statement(checkpoint.sequence, &state);
    let vote = keys.sign(Domain::new(Kind::Checkpoint, 0), &statement);
    Some(Message::Checkpoint(Checkpoint { state, vote, ..checkpoint.clone() }))
}

fn other_batch(
    told: &mut HashMap<(View, Sequence), Digest>,
    keys: &Keychain,
    to: Principal,
    message: &Message,
) -> Option<Message> {
    if !matches!(to, Principal::Replica(ReplicaId(index)) if index % 2 == 1) {
        return None;
    }
    match message {
        Message::PrePrepare(PrePrepare { view, sequence, batch }) => {
            let batch = wire::batch(batch.time + 1, batch.seal, batch.requests.clone());
            told.insert((*view, *sequence), keys.digest(Domain::new(Kind::Batch, 0), &[&batch.bytes]));
            Some(Message::PrePrepare(PrePrepare { view: *view, sequence: *sequence, batch }))
        }
        Message::Prepare(Prepare { view, sequence, .. }) => {
            let digest = *told.get(&(*view, *sequence))?;
            Some(Message::Prepare(Prepare { view: *view, sequence: *sequence, digest }))
        }
        Message::Commit(Commit { view, sequence, .. }) => {
            let digest = *told.get(&(*view, *sequence))?;
            Some(Message::Commit(Commit { view: *view, sequence: *sequence, digest }))
        }
        _ => None,
    }
}
