"""Benchmarks: one file a question, one JSON format, committed results with machine and commit."""
