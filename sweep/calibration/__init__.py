"""Text to tokens, tokens through the network, every site observed, fold by fold; and where the result is kept.

Knows nothing of how scales are chosen."""
