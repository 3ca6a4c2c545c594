"""The worker process: one instance of one function, its engine and its pump."""
