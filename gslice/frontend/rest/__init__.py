"""KServe v2 over HTTP: JSON and binary tensors, by the same data path as gRPC."""
