"""Which way of dividing devices answers most requests in time? See `benchmarks.goodput.__main__`."""
