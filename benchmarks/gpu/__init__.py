"""Everything that only a GPU can answer, in one go: `python -m benchmarks.gpu --out DIR`.

Each step is a module of this package, runs in a process of its own within its part of the time, and
writes one JSON file in the benchmarks' common format.
"""
