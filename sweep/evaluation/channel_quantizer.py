"""The rounding of one site's channels: a cell's scales as a forward pass applies them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sweep.quantization import formats
from sweep.quantization.formats import Format, Quantizer
from sweep.quantization.granularity import Parts
from sweep.quantization.site_scales import NOWHERE, Place
from sweep.quantization.types import Floats, SiteKey


@dataclass(frozen=True, eq=False)
class Rounding:
    """`clamp(round(x / scale), low, high) * scale`, all codes with the zero point taken off.

    scale and zero_point: float64 [1], the same for every channel, or [channels].

    It is `Quantizer.quantize` without a search where in each binade of a format the codes are evenly spaced, by a
    multiple of `finest`: rounding half to even in units of that spacing is the format's own rule for ties. The codes
    of other formats (codebooks) are looked up."""

    format: Format
    scale: Floats
    zero_point: Floats

    @property
    def low(self) -> Floats:
        return np.asarray(self.format.codes[0] - self.zero_point)

    @property
    def high(self) -> Floats:
        return np.asarray(self.format.codes[-1] - self.zero_point)

    @property
    def finest(self) -> float:
        """The distance between the codes around zero."""
        return float(np.diff(self.format.magnitudes[:2])[0])

    @cached_property
    def relative(self) -> float | None:
        """Spacing is max(finest, relative * 2^floor(log2 |code|)): 0 for integers, 2^-mantissa bits for floats, and
        None for a format of other spacing."""
        codes = self.format.magnitudes
        gaps, binades = np.diff(codes), np.exp2(np.floor(np.log2(codes[1:])))
        binades = np.concatenate([[0.0], binades[:-1]])  # of the lower end of each gap
        relative = 0.0 if gaps[-1] == gaps[0] else float(gaps[-1] / binades[-1])
        even = np.array_equal(gaps, np.maximum(gaps[0], relative * binades))
        return relative if even and (self.format.mirrored or not self.format.symmetric) else None

    @property
    def borders(self) -> Floats:
        """The borders between codes, in units of the scale: see `Quantizer.borders`."""
        return Quantizer(self.format, 1.0, 0, self.format.codes[0], self.format.largest).borders

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides what a value becomes."""
        parts = (self.format.codes, self.scale, self.zero_point)
        return hashlib.sha256(b"".join(np.ascontiguousarray(p, "<f8").tobytes() + b"|" for p in parts)).hexdigest()


def of_table(scales: pa.Table, sites: Sequence[str], parts: Mapping[SiteKey, Parts]) -> dict[SiteKey, Rounding]:
    """The rounding of every (layer, site) with a site in `sites`, from the rows of scales.parquet.

    parts: which channels the rows of a site with several scales stand for. Raises ValueError where they are needed
    and are not there."""
    rows: dict[SiteKey, dict[Place, dict[str, Any]]] = {}
    for row in scales.filter(pc.is_in(scales["site"], pa.array(sites))).to_pylist():
        ssd, head, dim = (
            NOWHERE if row[group] is None else row[group] for group in ("ssd_group", "head_group", "dim_group")
        )
        rows.setdefault((row["layer"], row["site"]), {})[ssd, head, dim] = row
    return {key: _rounding(key, site_rows, parts.get(key)) for key, site_rows in rows.items()}


def _rounding(key: SiteKey, rows: Mapping[Place, dict[str, Any]], parts: Parts | None) -> Rounding:
    scale = {place: float(row["scale"]) for place, row in rows.items()}
    zero = {place: float(row["zero_point"] or 0) for place, row in rows.items()}
    format = formats.named(next(iter(rows.values()))["format"])
    if parts is None:
        if len(rows) > 1:
            raise ValueError(f"{len(rows)} scales for {key[1]} of layer {key[0]}, and nothing says of which channels")
        return Rounding(format, np.array(list(scale.values())), np.array(list(zero.values())))
    if (order := np.concatenate([channels for _, channels in parts])).size != np.unique(order).size:
        raise ValueError(f"parts of {key[1]} of layer {key[0]} overlap")
    scales, zeros = np.empty((2, order.size))
    for place, channels in parts:
        scales[channels], zeros[channels] = scale[place], zero[place]
    return Rounding(format, scales, zeros)
