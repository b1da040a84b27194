"""Sweep harness for the activation scales of quantized Mamba models."""

__version__ = "0.1.0"
