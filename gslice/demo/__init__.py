"""The demo: a real pipeline, served by a real node on loopback, read back over gRPC."""
