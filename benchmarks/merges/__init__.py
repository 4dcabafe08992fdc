"""What the benchmark of merges is made of."""
