"""Studies: sweeps that were made to answer questions of their own, and the answers."""
