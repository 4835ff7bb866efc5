//! Expressions as the platform's configuration bounds them.

use crate::config;
use quorate_dag::Limits;

/// The limits in force, in the terms of the language.
#[must_use]
pub fn limits(limits: &config::Limits) -> Limits {
    Limits {
        bytes: limits.expression_bytes,
        nodes: limits.nodes,
        nesting: limits.nesting,
        digits: usize::try_from(limits.digits).unwrap_or(usize::MAX),
    }
}
