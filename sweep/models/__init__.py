"""Checkpoints in, a backbone and its Mamba mixers out; which sites a mixer has; kernels for the CPU.

Knows nothing of statistics."""
