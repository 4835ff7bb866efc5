//! Nothing shared yet: every target is a file in fuzz_targets.
