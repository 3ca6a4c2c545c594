"""Questions about gslice that are answered by figures. Each module says how to run it."""

import os

# Nodes are forked to be executed, nothing else; gRPC's handlers for forks that go on beside an open
# channel have been seen to end such a child before that.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
