"""Devices, and what enforces a share of one."""
