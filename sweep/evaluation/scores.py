"""Scores of a forward pass, text by text, and their means over all text with errors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.quantization.types import Floats, Ints

COLUMNS = pa.schema(
    [
        ("text", pa.int32()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
        ("nll", pa.float64()),
        ("baseline_nll", pa.float64()),
        ("kl", pa.float64()),
        ("agree", pa.int64()),
    ]
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N texts, [N] each: sums over the predicted tokens, which are all but the first of a text.

    tokens: how many these are. bytes: of the text they stand for. nll: -ln p(token), nats; baseline_nll: the same
    of the unquantized network. kl: KL(unquantized || this) of the predicted distributions, nats. agree: tokens for
    which both networks hold the same one most likely."""

    tokens: Ints
    bytes: Ints
    nll: Floats
    baseline_nll: Floats
    kl: Floats
    agree: Ints

    def table(self) -> pa.Table:
        """A row per text."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return pa.table({"text": np.arange(len(self.tokens), dtype=np.int32), **columns}, COLUMNS)

    def save(self, path: Path) -> None:
        pq.write_table(self.table(), path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote. Raises ValueError for another table, OSError for a damaged file."""
        table = pq.read_table(path)
        if table.schema != COLUMNS:
            raise ValueError(f"{path}: no scores of this version")
        return cls.of(table)

    @classmethod
    def of(cls, table: pa.Table) -> Scores:
        """From the rows that `table` gave. Raises KeyError where a column is missing."""
        return cls(**{field.name: table[field.name].to_numpy() for field in fields(cls)})

    def summary(self) -> dict[str, float | None]:
        """Means over tokens (bits per byte: over bytes), each with its standard error over texts.

        perplexity = exp(mean nll). delta_… is the difference to the unquantized network; its error is that of the
        differences text by text, which is what tells whether there is one: both networks read the same texts, and
        most of the error of either is theirs. None where something is not finite, or an error has one text only."""
        nll, nll0, count = self.nll, self.baseline_nll, self.tokens
        perplexity, perplexity0 = _exp(_ratio(nll, count)), _exp(_ratio(nll0, count))
        bits = self.bytes * np.log(2)
        summary = {
            "nll": _ratio(nll, count),
            "perplexity": perplexity,
            "bits_per_byte": _ratio(nll, bits),
            "kl": _ratio(self.kl, count),
            "top1_agreement": _ratio(self.agree, count),
            "delta_nll": _ratio(nll - nll0, count),
            "delta_perplexity": (perplexity[0] - perplexity0[0], perplexity[1] - perplexity0[1]),
            "delta_bits_per_byte": _ratio(nll - nll0, bits),
        }
        return _flat(summary)

    def against(self, other: Scores) -> dict[str, float | None]:
        """`summary` with delta_… the difference to another quantized network, and the errors of that.

        Raises ValueError where they did not read the same texts."""
        if not np.array_equal(self.tokens, other.tokens) or not np.array_equal(self.baseline_nll, other.baseline_nll):
            raise ValueError("scores of different texts or networks cannot be paired")
        summary = replace(self, baseline_nll=other.nll).summary()
        return summary | _flat({"delta_kl": _ratio(self.kl - other.kl, self.tokens)})

    def baseline(self) -> dict[str, float | None]:
        """nll, perplexity and bits per byte of the unquantized network."""
        nll = _ratio(self.baseline_nll, self.tokens)
        bits = _ratio(self.baseline_nll, self.bytes * np.log(2))
        return _flat({"nll": nll, "perplexity": _exp(nll), "bits_per_byte": bits})


Estimate = tuple[float, Floats]  # a number, and what each text moves it by, [N]: its linearization


def _ratio(amount: Floats | Ints, of: Floats | Ints) -> Estimate:
    """sum amount / sum of, over texts of different length (Cochran, Sampling Techniques, 3rd ed., section 6.4)."""
    ratio = float(np.sum(amount) / np.sum(of))
    return ratio, np.asarray((amount - ratio * of) / np.sum(of), np.float64)


def _exp(estimate: Estimate) -> Estimate:
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.exp(estimate[0])
        return float(value), value * estimate[1]  # the delta method


def _flat(estimates: dict[str, Estimate]) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, (value, moved) in estimates.items():
        texts = len(moved)
        with np.errstate(over="ignore", invalid="ignore"):
            error = float(np.sqrt(texts / (texts - 1) * np.square(moved).sum())) if texts > 1 else np.nan
        flat[name] = value if np.isfinite(value) else None
        flat[f"{name}_se"] = error if np.isfinite(error) else None
    return flat
