"""What a cell's scales cost the network: perplexity, divergence and agreement of its fake-quantized forward pass."""
