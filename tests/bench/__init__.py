"""Benchmarks: every figure is a ratio of paired runs on one machine, taken in turn so that both meet the same weather."""
