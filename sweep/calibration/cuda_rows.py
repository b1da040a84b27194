"""The table that one counting launch reads: a row for each site that a hook observes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.models.kernels.conv import Convolved

PARTS = 8
CHANNELS = 64  # that a block of threads has side by side
NOTHING_STRANGE = 2**62  # first strange text of a site without any

# columns of the table
BLOCK, X, TEXT_STRIDE, TOKEN_STRIDE, CHANNEL_STRIDE, TEXTS, TOKENS, WIDTH = range(8)
COUNTS, LOW, HIGH, ABS_SUM, TEXT_MEAN, STRANGE, BEFORE = range(8, 15)
TEXT_SUM, TICKET, WEIGHT, CHANNEL_WEIGHT, TAP_WEIGHT, BIAS, KERNEL, SILU = range(15, 23)
COLUMNS = 23


@dataclass(eq=False, slots=True)  # frozen it would take twice as long to make, eleven times a mixer
class Row:
    """Values x [texts, tokens, channels] of a site and what they are added to: counts int64 [65536]; low, high,
    text_mean float32 [PARTS, channels]; abs_sum float64 [1, channels]; strange int64 [1], the least number of a text
    that holds a NaN or an infinity, where the first text has the number `texts_before`. convolution: what is to be made
    of x first."""

    x: Tensor
    counts: Tensor
    low: Tensor
    high: Tensor
    abs_sum: Tensor
    text_mean: Tensor
    strange: Tensor
    texts_before: int
    convolution: Convolved | None = None

    def words(self, first_block: int, text_sum: int, ticket: int) -> list[int]:
        """This site's row of the launch table, in the order of the columns."""
        x, lazy = self.x, self.convolution
        kept = (self.counts, self.low, self.high, self.abs_sum, self.text_mean, self.strange)
        addresses = [tensor.data_ptr() for tensor in kept]
        words = [first_block, x.data_ptr(), *x.stride(), *x.shape, *addresses, self.texts_before, text_sum, ticket]
        if lazy is None:
            return words + [0] * 6
        words += [lazy.weight.data_ptr(), *lazy.weight.stride(), 0 if lazy.bias is None else lazy.bias.data_ptr()]
        return [*words, lazy.weight.shape[1], int(lazy.silu)]


@dataclass(frozen=True, eq=False)
class Table:
    """One launch: the dtype of its values; its words, which are rows, then a ticket for each stretch of channels of
    each row; the number of rows and of blocks; and memory for the sums of single texts, float64."""

    dtype: torch.dtype
    words: list[int]
    rows: int
    blocks: int
    text_sums: Tensor


def tables(rows: Sequence[Row]) -> list[Table]:
    """The launches that count some rows, one for each dtype there is; none for rows without values."""
    launches = []
    for dtype in {row.x.dtype: None for row in rows}:
        those = [row for row in rows if row.x.dtype is dtype and row.x.numel()]
        if not those:
            continue
        shapes = [row.x.shape for row in those]
        sums = torch.empty(sum(s[0] * s[2] for s in shapes), dtype=torch.float64, device=those[0].x.device)
        words: list[int] = []
        blocks, text_sum, ticket = 0, sums.data_ptr(), len(those) * COLUMNS
        for row, (texts, _, width) in zip(those, shapes, strict=True):
            words += row.words(blocks, text_sum, ticket)
            stretches = -(-width // CHANNELS)
            blocks += stretches * min(texts, PARTS)
            text_sum += texts * width * 8
            ticket += stretches
        launches.append(Table(dtype, words + [0] * (ticket - len(words)), len(those), blocks, sums))
    return launches


def none_strange(device: torch.device) -> Tensor:
    """`Row.strange` of a site that has seen nothing strange."""
    return torch.full((1,), NOTHING_STRANGE, dtype=torch.int64, device=device)
