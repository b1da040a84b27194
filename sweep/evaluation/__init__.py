"""Measured cost of a cell's scales: perplexity, divergence and agreement of its fake-quantized forward pass.

Knows nothing of W&B or of a cell's files."""
