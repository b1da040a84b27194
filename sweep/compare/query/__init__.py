"""Cells of any number of sweeps, filtered and queried by SQL."""
