"""Processes: children of the daemon, what they serve, and what happens when they die."""
