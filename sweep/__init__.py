"""Sweep harness for the activation scales of quantized Mamba models."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: after every operation its threads spin, in case another follows, for milliseconds in which
# the observer's threads cannot have their cores. A thirtieth of that is enough for a forward pass.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
