//! Arithmetic expressions as graphs, and a scheduler for any directed acyclic graph.
#![forbid(unsafe_code)]
