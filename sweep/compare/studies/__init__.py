"""Studies with questions of their own."""
