"""Benchmarks: how fast methods and rivals really are, on models of random weights, measured side by side in one run."""
