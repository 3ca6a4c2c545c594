"""Which server answers the same requests fastest on one core? See `__main__`."""
