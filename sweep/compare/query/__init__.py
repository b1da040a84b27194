"""Cells of any number of sweeps, found, filtered and asked by SQL."""
