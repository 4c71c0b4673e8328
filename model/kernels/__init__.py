"""Inner loops, compiled: how kernels are made, matrix products of floats and of small integers, and sifting."""
