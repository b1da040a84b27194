"""Forward passes over held-out text, and what the network would have said next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sweep.calibration.loop import batches
from sweep.config.knobs import Calibration
from sweep.core.errors import UsageError
from sweep.core.signals import deferred
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.evaluation.heldout import Text
from sweep.evaluation.scores import Scores
from sweep.models.head import logits
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.quantization.types import SiteKey

AT_ONCE = 1 << 23  # logits held at a time: float64, four times


def hidden_states(
    model: Model,
    text: Text,
    roundings: Mapping[SiteKey, Rounding],
    calibration: Calibration,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[int, Tensor]]:
    """For each text its number and what enters lm_head, [seq, d_model], with the sites of `roundings` rounded.

    Batches are made as for the calibration. Raises UsageError where a site cannot be reached, Interrupted after a
    signal."""
    done = 0
    with (
        deferred() as signal,
        kernels(model.mixers, model.device),
        fake_quantized(model.mixers, roundings) as quantized,
    ):
        for batch in batches(text.tokens, 0, replace(calibration, folds=1)):
            ids = torch.from_numpy(np.stack([text.tokens.windows[i] for i in batch])).to(model.device)
            with torch.inference_mode():
                states = model.backbone(ids)
            quantized.check(ids.numel())
            yield from zip(batch, states, strict=True)
            done += len(batch)
            progress(done, len(text.tokens.windows))
            signal.check()


def score(model: Model, text: Text, states: Iterator[tuple[int, Tensor]], baseline: Callable[[int], Tensor]) -> Scores:
    """The scores of the network's predictions, text by text. baseline: returns the unquantized network's states of a
    text.

    Raises UsageError for what is not a number."""
    windows = text.tokens.windows
    sums = np.zeros((4, len(windows)))
    for number, own in states:
        ids = torch.from_numpy(windows[number][1:]).to(model.device)
        sums[:, number] = _text(model, own[:-1], baseline(number)[:-1].to(model.device), ids)
        for row, whose in ((1, "the unquantized network"), (0, "the quantized network")):
            if not np.isfinite(sums[row, number]):
                raise UsageError(
                    f"{whose} gives NaN or infinite logits on held-out text {number}: "
                    "there is no perplexity; use a wider dtype"
                )
    return Scores(
        tokens=np.array([len(window) - 1 for window in windows]),
        bytes=text.bytes,
        nll=sums[0],
        baseline_nll=sums[1],
        kl=sums[2],
        agree=sums[3].astype(np.int64),
    )


def _text(model: Model, own: Tensor, other: Tensor, ids: Tensor) -> tuple[float, float, float, float]:
    """Sums over one text, of states [T, d_model] and the tokens that came, [T]: see Scores."""
    sums = [0.0] * 4
    rows = max(1, AT_ONCE // int(model.lm.lm_head.weight.shape[0]))
    with torch.inference_mode():
        for start in range(0, len(ids), rows):
            part = slice(start, start + rows)
            # the same shapes on both sides, so that equal states give equal logits, bit for bit
            p, q = (F.log_softmax(logits(model, states[part]).double(), -1) for states in (own, other))
            next_ids = ids[part, None]
            sums[0] -= float(p.gather(-1, next_ids).sum())
            sums[1] -= float(q.gather(-1, next_ids).sum())
            sums[2] += float((q.exp() * (q - p)).sum())
            sums[3] += float((p.argmax(-1) == q.argmax(-1)).sum())
    return sums[0], sums[1], sums[2], sums[3]
