"""Triton's model repositories as functions of a node: what is served, and what cannot be honoured.

`node.node_config` is the way in. Why so: docs/decisions/0029-triton-repositories.md.
"""
