"""Arrays as the rooms hand them to one another, and the key of a site."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bins = NDArray[np.uint16]  # numbers of bins
Counts = NDArray[np.int32] | Ints  # values in bins; int32 in a sample, where fewer than 2^31 can be

SiteKey = tuple[int, str]  # layer, site
