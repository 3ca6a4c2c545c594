"""Which way of dividing a real device answers most requests in time? `--mode live`

A daemon serves real models on the CPU device, under an open loop per function whose rates change
once: what is asked most of in the first half is asked least of in the second. The device is one
core, limited by `cgroup`, so that shares move in place and sum up to what is there; front-end,
daemon, pumps and clients have another core.

Every way of dividing gets a fresh node and the same arrivals; ways take turns, round by round.
SLOs and rates follow from profiles that are measured first (`gslice profile`), and which the
controller knows like any daemon that finds them in its state directory.
"""
