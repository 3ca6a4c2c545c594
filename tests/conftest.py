"""What holds for all tests."""

import os

# Tests talk to nobody but loopback; onnxruntime would report its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
