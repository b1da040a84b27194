"""Statistics of a calibration: per layer and site, a histogram and channel maxima for every fold.

Statistics know no method, no alpha and no format: every scale is read off them afterwards. They merge by
putting their folds side by side, so shards of whole folds give bit for bit what one job gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sweep.quantization import statistics_io
from sweep.quantization.fisher import FisherHistogram
from sweep.quantization.site_statistics import SiteStatistics
from sweep.quantization.types import Floats, SiteKey


@dataclass(frozen=True, eq=False)
class Statistics:
    """All sites of all layers. `meta` is plain JSON: what the sites mean (geometry of the model, …)."""

    sites: dict[SiteKey, SiteStatistics]
    meta: dict[str, Any]

    def __add__(self, other: Statistics) -> Statistics:
        """Both sets of folds. Raises ValueError where sites, meta or layouts differ, or folds overlap."""
        return Statistics.merge([self, other])

    @classmethod
    def merge(cls, parts: Sequence[Statistics]) -> Statistics:
        """The sum of one or more, site by site, so that no more than a site's is held in between."""
        first = parts[0]
        if any(part.sites.keys() != first.sites.keys() or part.meta != first.meta for part in parts):
            raise ValueError("cannot merge statistics of different models or sites")
        return cls({key: SiteStatistics.merge([part.sites[key] for part in parts]) for key in first.sites}, first.meta)

    def grown(self, more: Statistics) -> Statistics:
        """These folds with later samples added, see `SiteStatistics.grown`. Raises ValueError where sites differ."""
        if self.sites.keys() != more.sites.keys():
            raise ValueError("cannot grow statistics by those of other sites")
        return Statistics({key: site.grown(more.sites[key]) for key, site in self.sites.items()}, more.meta)

    def of_layer(self, layer: int) -> Statistics:
        """The sites of one layer."""
        return Statistics({key: site for key, site in self.sites.items() if key[0] == layer}, self.meta)

    def abs_sums(self, fold: int) -> dict[SiteKey, Floats]:
        """The sums of |x| of one fold by site, float64 [channels]: see `SiteStatistics.channel_abs_sum`."""
        return {key: site.channel_abs_sum[list(site.folds).index(fold)] for key, site in self.sites.items()}

    def fisher(self, fold: int) -> dict[SiteKey, FisherHistogram]:
        """Squared gradients of one fold, by site; of those sites that have any."""
        return {
            key: site.fisher.take(np.flatnonzero(site.folds == fold)) for key, site in self.sites.items() if site.fisher
        }

    def save(self, path: Path) -> None:
        """Write one Parquet file, the same bytes for the same statistics; see `statistics_io`."""
        statistics_io.write(path, self.sites, self.meta)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote. Raises ValueError for another schema, OSError for a damaged file."""
        return cls(*statistics_io.read(path))
