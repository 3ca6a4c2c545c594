"""What runs inside the peers' environments. Nothing here imports anything of gslice or of the race.

Each module serves one stream, as RACE_STREAM describes it (`benchmarks.peers.streams`), in the way
that the server's documentation shows: identity gives its input back as it is, and a model runs on
onnxruntime with one thread.
"""
