"""The element-wise work of a training step on the CPU, compiled: everything between two matrix products."""
