"""Types, errors, configuration and units. Imports nothing else of gslice."""
