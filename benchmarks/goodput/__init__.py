"""Which way of dividing devices answers most requests in time? See `__main__`."""
