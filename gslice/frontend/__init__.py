"""The front-end process: KServe v2 over gRPC, in front of the functions' segments."""
