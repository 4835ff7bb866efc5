//! The receipt of an expression: what anyone can check without the platform.
//!
//! It holds the expression, its result, and for every operation of its plan the operands, the result and
//! the [`Receipt`] of the set that executed it. To verify it is to plan the expression
//! again, to see that every operand is a number of the text, a parameter, or the result of the operation
//! before it, and that at least 2f+1 replicas of a set have signed each operation with its result. There
//! is nothing in it that is not checked.
//!
//! Signatures say who signed, not who ought to have: for that, the sets' public keys come from elsewhere
//! ([`Keys`], `quorate keys show --json`).

mod audit;
#[cfg(test)]
mod tests;

pub use audit::{Audit, Contradicted, UnprovenAudit};

use crate::{
    function::{Answer, Operation},
    hex,
    records::Request,
};
use bytes::Bytes;
use quorate_dag::{
    Expression, ExpressionError, Function, Limits, NodeId, Operand, Parameters, Plan, Value, ValueError,
};
use quorate_pbft::{
    group::Configuration,
    membership::{Chain, InvalidSuccession},
    receipt::{InvalidReceipt, Receipt},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The format that this version writes and reads.
const FORMAT: u32 = 2;

/// The receipt of an expression, as it is written to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpressionReceipt {
    /// Of this format.
    format: u32,
    /// [`Plan::VERSION`] of who planned it.
    plan_version: u32,
    /// The expression.
    expression: String,
    /// The values of its names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    parameters: BTreeMap<String, String>,
    /// Digits after the point that the result is rounded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digits: Option<u32>,
    /// Digits that a value could have: a part of every operation.
    digits_max: u32,
    /// The result.
    result: String,
    /// Each set's PBFT genesis and what proves who its members were later ([`Chain`]), hexadecimal.
    sets: BTreeMap<String, String>,
    /// Every operation, by its number in the plan.
    operations: Vec<SignedOperation>,
}

/// One operation with what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedOperation {
    function: String,
    left: String,
    right: String,
    result: String,
    set: String,
    /// A [`Receipt`], hexadecimal.
    receipt: String,
}

/// The public keys of sets' replicas, as `quorate keys show --json` prints them: those that a set began
/// with. Whoever took the place of one of them later is proven by what the set's members signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// By set: each replica's key in order of their indices, hexadecimal DER (SubjectPublicKeyInfo).
    pub sets: BTreeMap<String, Vec<String>>,
}

/// What proves one operation, as a scheduler has it.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The operation's value.
    pub value: &'a Value,
    /// The set that executed it.
    pub set: &'a str,
    /// Its PBFT [`Chain`]: the longest that is known.
    pub chain: &'a [u8],
    /// The PBFT receipt's bytes.
    pub receipt: &'a [u8],
}

/// What a verified receipt shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The expression.
    pub expression: String,
    /// The values of its names, in lowest terms: what the operations were done with.
    pub parameters: BTreeMap<String, String>,
    /// Its result.
    pub result: String,
    /// Operations, all of them signed.
    pub operations: usize,
    /// The sets that executed them.
    pub sets: Vec<String>,
    /// Whether the signers are those that the verifier's own keys name. Otherwise the receipt is only
    /// consistent in itself: anybody could have signed it.
    pub trusted: bool,
}

/// Why a receipt proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum UnprovenReceipt {
    /// It is not a receipt.
    #[error("not the receipt of an expression: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version.
    #[error("{field} {found} is not known; this version verifies {expected}")]
    Version {
        /// Of what.
        field: &'static str,
        /// The receipt's.
        found: u32,
        /// This program's.
        expected: u32,
    },
    /// The expression is none.
    #[error("its expression is wrong: {}", .0.kind)]
    Expression(#[from] ExpressionError),
    /// A parameter has no number, or the expression does not use it, or has a name without a value.
    #[error("its parameter `{0}` is not a number that the expression uses")]
    Parameter(String),
    /// There are more or fewer operations than the expression has.
    #[error("the expression has {planned} operations, the receipt {found}")]
    Operations {
        /// What planning gives.
        planned: usize,
        /// What the receipt has.
        found: usize,
    },
    /// An operation is not the plan's.
    #[error("operation {node}: {field} is `{found}`, the expression says `{expected}`")]
    Operation {
        /// The operation's number.
        node: usize,
        /// What differs.
        field: &'static str,
        /// The receipt's.
        found: String,
        /// The plan's.
        expected: String,
    },
    /// An operation's result is not a number in its one form.
    #[error("operation {node}: its result `{found}` is not a number as the platform writes it")]
    Value {
        /// The operation's number.
        node: usize,
        /// The receipt's.
        found: String,
    },
    /// An operation's receipt proves nothing.
    #[error("operation {node}: {source}")]
    Receipt {
        /// The operation's number.
        node: usize,
        /// Why.
        source: InvalidReceipt,
    },
    /// A field is not hexadecimal.
    #[error("{0} is not hexadecimal in lower case")]
    Hexadecimal(&'static str),
    /// A set is named but not described, or described and not used.
    #[error("set `{0}` is named without its members, or has some and executed nothing")]
    Set(String),
    /// A set's members are not proven.
    #[error("set `{set}`: {source}")]
    Chain {
        /// The set.
        set: String,
        /// Why.
        source: InvalidSuccession,
    },
    /// A set's keys are not those that were given.
    #[error("set `{0}` is not made of the replicas whose keys were given")]
    Keys(String),
    /// The result is not what the last operation gave.
    #[error("its result is `{found}`, the operations give `{expected}`")]
    Result {
        /// The receipt's.
        found: String,
        /// What the operations give.
        expected: String,
    },
}

impl ExpressionReceipt {
    /// Puts together what a scheduler has: `None` when an operation lacks its evidence.
    #[must_use]
    pub fn assemble<'a>(
        request: &Request,
        plan: &Plan,
        digits_max: u32,
        result: &str,
        evidence: impl Fn(NodeId) -> Option<Evidence<'a>>,
    ) -> Option<Self> {
        let limits = limits(digits_max);
        let parameters: BTreeMap<_, _> = plan
            .parameters()
            .map(|name| Some((name.to_owned(), request.parameters.get(name)?.clone())))
            .collect::<Option<_>>()?;
        let text = |operand: Operand<'_>| match operand {
            Operand::Value(value) => Some(value.to_string()),
            Operand::Parameter(name) => Some(Value::parse(&parameters[name], &limits).ok()?.to_string()),
            Operand::Node(node) => Some(evidence(node)?.value.to_string()),
        };
        let mut sets = BTreeMap::new();
        let mut operations = Vec::with_capacity(plan.len());
        for node in plan.nodes() {
            let proof = evidence(node)?;
            sets.entry(proof.set.to_owned()).or_insert_with(|| hex::encode(proof.chain));
            let [left, right] = plan.operands(node).map(text);
            operations.push(SignedOperation {
                function: plan.function(node).name().to_owned(),
                left: left?,
                right: right?,
                result: proof.value.to_string(),
                set: proof.set.to_owned(),
                receipt: hex::encode(proof.receipt),
            });
        }
        Some(Self {
            format: FORMAT,
            plan_version: Plan::VERSION,
            expression: request.expression.clone(),
            parameters,
            digits: request.digits,
            digits_max,
            result: result.to_owned(),
            sets,
            operations,
        })
    }

    /// The receipt's file.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        let mut text = serde_json::to_vec_pretty(self).expect("plain strings and numbers serialise");
        text.push(b'\n');
        text.into()
    }

    /// Reads a receipt's file. Nothing is verified yet.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, UnprovenReceipt> {
        Ok(serde_json::from_slice(text)?)
    }

    /// Verifies it: with `keys`, that the replicas that they name have signed all of it; without, only
    /// that it is consistent in itself.
    ///
    /// # Errors
    /// What it does not prove.
    pub fn verify(&self, keys: Option<&Keys>) -> Result<Verified, UnprovenReceipt> {
        self.check_versions()?;
        let limits = limits(self.digits_max);
        let parsed = Expression::parse_within(&self.expression, &limits)?;
        let plan = parsed.plan();
        let parameters = self.parameters(&plan, &limits)?;
        let sets = self.chains(keys)?;
        if plan.len() != self.operations.len() {
            let (planned, found) = (plan.len(), self.operations.len());
            return Err(UnprovenReceipt::Operations { planned, found });
        }

        let mut values: Vec<Value> = Vec::with_capacity(plan.len());
        for (node, signed) in plan.nodes().zip(&self.operations) {
            let operands = plan.operands(node).map(|operand| value(operand, &parameters, &values));
            let result =
                signed.verify(plan.function(node), operands, values.len(), self.digits_max, &sets)?;
            values.push(result);
        }

        let root = value(plan.root(), &parameters, &values);
        let expected = match self.digits {
            Some(digits) if digits > self.digits_max => String::new(),
            Some(digits) => root.to_decimal(usize::try_from(digits).unwrap_or(usize::MAX)),
            None => root.to_string(),
        };
        if self.result != expected {
            return Err(UnprovenReceipt::Result { found: self.result.clone(), expected });
        }
        Ok(Verified {
            expression: self.expression.clone(),
            parameters: plan
                .parameters()
                .filter_map(|name| Some((name.to_owned(), parameters.value(name)?.to_string())))
                .collect(),
            result: expected,
            operations: values.len(),
            sets: sets.into_keys().map(str::to_owned).collect(),
            trusted: keys.is_some(),
        })
    }

    fn check_versions(&self) -> Result<(), UnprovenReceipt> {
        for (field, found, expected) in
            [("format", self.format, FORMAT), ("plan_version", self.plan_version, Plan::VERSION)]
        {
            if found != expected {
                return Err(UnprovenReceipt::Version { field, found, expected });
            }
        }
        Ok(())
    }

    /// The values of the names: exactly those that the expression has.
    fn parameters(&self, plan: &Plan, limits: &Limits) -> Result<Parameters, UnprovenReceipt> {
        let used: BTreeSet<_> = plan.parameters().collect();
        let given: BTreeSet<_> = self.parameters.keys().map(String::as_str).collect();
        if let Some(name) = used.symmetric_difference(&given).next() {
            return Err(UnprovenReceipt::Parameter((*name).to_owned()));
        }
        let read = |(name, text): (&String, &String)| {
            let wrong = |_: ValueError| UnprovenReceipt::Parameter(name.clone());
            Ok((name.clone(), Value::parse(text, limits).map_err(wrong)?))
        };
        self.parameters.iter().map(read).collect()
    }

    /// The sets' members in the course of time: exactly those of the sets that executed something.
    fn chains(&self, keys: Option<&Keys>) -> Result<BTreeMap<&str, Chain>, UnprovenReceipt> {
        let used: BTreeSet<_> = self.operations.iter().map(|operation| operation.set.as_str()).collect();
        let described: BTreeSet<_> = self.sets.keys().map(String::as_str).collect();
        if let Some(set) = used.symmetric_difference(&described).next() {
            return Err(UnprovenReceipt::Set((*set).to_owned()));
        }
        let mut chains = BTreeMap::new();
        for (set, chain) in &self.sets {
            let chain = from_hex(chain).ok_or(UnprovenReceipt::Hexadecimal("a set's chain"))?;
            let chain = Chain::from_bytes(&chain)
                .map_err(|source| UnprovenReceipt::Chain { set: set.clone(), source })?;
            if let Some(keys) = keys {
                keys.check(set, chain.genesis())?;
            }
            chains.insert(set.as_str(), chain);
        }
        Ok(chains)
    }
}

impl SignedOperation {
    /// Checks that this is the plan's operation, and that its set has signed it with its result.
    fn verify(
        &self,
        function: Function,
        [left, right]: [Value; 2],
        node: usize,
        digits_max: u32,
        sets: &BTreeMap<&str, Chain>,
    ) -> Result<Value, UnprovenReceipt> {
        for (field, found, expected) in [
            ("function", &self.function, function.name().to_owned()),
            ("left operand", &self.left, left.to_string()),
            ("right operand", &self.right, right.to_string()),
        ] {
            if *found != expected {
                return Err(UnprovenReceipt::Operation { node, field, found: found.clone(), expected });
            }
        }
        let result = Value::parse(&self.result, &limits(digits_max))
            .ok()
            .filter(|value| value.to_string() == self.result)
            .ok_or_else(|| UnprovenReceipt::Value { node, found: self.result.clone() })?;
        let (left, right) = (left.to_bytes(), right.to_bytes());
        let operation = Operation { function, digits_max, left: &left, right: &right }.to_bytes();
        let answer = Answer::Value(result.to_bytes().into()).to_bytes();

        let bytes = from_hex(&self.receipt).ok_or(UnprovenReceipt::Hexadecimal("an operation's receipt"))?;
        let chain = sets.get(self.set.as_str()).ok_or_else(|| UnprovenReceipt::Set(self.set.clone()))?;
        Receipt::from_bytes(&bytes)
            .and_then(|receipt| receipt.verify_contents(signers(chain, &receipt), &operation, &answer))
            .map_err(|source| UnprovenReceipt::Receipt { node, source })?;
        Ok(result)
    }
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Checks that a set began with the replicas that these keys name.
    pub(crate) fn check(&self, set: &str, genesis: &Configuration) -> Result<(), UnprovenReceipt> {
        let members = genesis.replicas.iter().map(|key| hex::encode(&key.to_der()));
        let known = self.sets.get(set).is_some_and(|keys| keys.iter().cloned().eq(members));
        if known { Ok(()) } else { Err(UnprovenReceipt::Keys(set.to_owned())) }
    }
}

/// The configuration whose members are to have signed a receipt. With one that is not in the chain it does
/// not verify, and says so.
fn signers<'a>(chain: &'a Chain, receipt: &Receipt) -> &'a Configuration {
    chain.get(receipt.configuration).unwrap_or_else(|| chain.latest())
}

/// An operand's value; operands come before the nodes that use them.
fn value(operand: Operand<'_>, parameters: &Parameters, values: &[Value]) -> Value {
    match operand {
        Operand::Value(value) => value.clone(),
        Operand::Parameter(name) => parameters.value(name).expect("every name was looked up").clone(),
        Operand::Node(node) => values[node.index()].clone(),
    }
}

/// What the expression was computed within, as far as it matters: the text was accepted once.
fn limits(digits_max: u32) -> Limits {
    let digits = usize::try_from(digits_max).unwrap_or(usize::MAX);
    Limits { bytes: usize::MAX, nodes: usize::MAX, nesting: usize::MAX, digits }
}

/// Bytes from hexadecimal in lower case: bytes have one text.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).filter(|bytes| hex::encode(bytes) == text)
}
