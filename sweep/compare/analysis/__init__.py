"""Differences between cells, tested against noise, and the setting they recommend."""
