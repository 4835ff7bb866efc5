//! Process benchmarks and comparisons; figures in README.md.
