"""Models: checkpoints in, a backbone and its mixers out."""
