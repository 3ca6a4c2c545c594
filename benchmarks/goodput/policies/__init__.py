"""Who decides in the benchmark: the product's controller, and what it is compared with."""
