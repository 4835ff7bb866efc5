#![cfg_attr(feature = "arithmetic", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "arithmetic"),
    doc = "A scheduler for any directed acyclic graph: [`Dag`], [`Run`]."
)]
#![forbid(unsafe_code)]

#[cfg(any(feature = "parallel", feature = "tokio"))]
mod drive;
mod graph;
mod rank;
mod run;

#[cfg(feature = "arithmetic")]
mod direct;
#[cfg(feature = "arithmetic")]
mod error;
#[cfg(feature = "arithmetic")]
mod evaluate;
#[cfg(feature = "arithmetic")]
mod expression;
#[cfg(feature = "arithmetic")]
mod function;
#[cfg(feature = "arithmetic")]
mod limits;
#[cfg(feature = "arithmetic")]
mod number;
#[cfg(feature = "arithmetic")]
mod parse;
#[cfg(feature = "arithmetic")]
mod plan;
#[cfg(feature = "arithmetic")]
mod render;

#[cfg(feature = "tokio")]
pub use drive::run_async;
#[cfg(feature = "parallel")]
pub use drive::run_parallel;
#[cfg(any(feature = "parallel", feature = "tokio"))]
pub use drive::{Drive, DriveError};
pub use graph::{Dag, DagError, FunctionId, Graph, NodeId};
pub use rank::{Costs, Prediction};
pub use run::{Batches, NodeState, OnFailure, Portable, Progress, RestoreError, Run, RunError};

#[cfg(feature = "arithmetic")]
pub use {
    error::{ErrorKind, ExpressionError},
    evaluate::{Call, Evaluation, Parameters},
    expression::Expression,
    function::{Function, NodeError, UnknownFunction},
    limits::Limits,
    number::{Value, ValueError, WireError, apply},
    parse::expression_field,
    plan::{Operand, Plan, PlanOptions},
};
