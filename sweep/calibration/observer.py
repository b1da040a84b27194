"""The torch side of a histogram: dense accumulators for one fold of all sites.

One fold accumulates at a time (768 KiB a site, and some numbers of each channel); a finished one is kept sparse.

On a CPU the sites of one hook are shared out among threads, this one among them, each running
`sweep.calibration.count_cpu` on one: counting is sequential within a tensor. On a CUDA device
`sweep.calibration.count_cuda` counts them all in one launch, and nothing waits for the device before the fold is done,
or its state is saved: a NaN is told then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from threading import Barrier
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sweep.calibration import cuda_rows
from sweep.core.errors import UsageError
from sweep.models.kernels.conv import Convolved
from sweep.quantization.bins import BFLOAT16, BINS, FLOAT16, FLOAT32
from sweep.quantization.histogram import Histogram
from sweep.quantization.statistics import Key

MOST = 2**31 - 1  # values that 32-bit counts hold in any case
STRETCH = 4096  # tokens of a text that are summed in float32; of longer ones the sums of stretches are, in float64
Sums = NDArray[np.float64]
T = TypeVar("T")
LAYOUTS = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}


@dataclass(frozen=True, eq=False)
class SiteFold:
    """A finished fold of one site; the arrays are those of `SiteStatistics` without their fold axis."""

    histogram: Histogram
    channel_absmax: NDArray[np.float32]
    channel_abs_sum: NDArray[np.float64]
    channel_text_mean_max: NDArray[np.float32]
    text_alphas: NDArray[np.float64]
    text_quantiles: NDArray[np.float64]


def text_quantiles(x: Tensor, alphas: Sequence[float]) -> Tensor:
    """Of each text of x [batch, seq, channels], for each alpha: the alpha-quantile of |x|, and the (1 - alpha)- and
    the alpha-quantile of x; linear interpolation, float64 [batch, A, 3].

    As `torch.quantile`, which refuses more than 2^24 values and rounds the rank to float32."""
    flat = x.flatten(1).float()
    ends = [_upper(values, alphas) for values in (flat.abs(), -flat, flat)]
    return torch.stack([ends[0], -ends[1], ends[2]], -1)


def _upper(values: Tensor, alphas: Sequence[float]) -> Tensor:
    """alpha-quantiles [batch, A] of each row."""
    last = values.shape[1] - 1
    ranks = [last * alpha for alpha in alphas]
    descending = values.topk(last + 1 - int(min(ranks)), dim=1).values.double()
    found = []
    for rank in ranks:
        below = int(rank)
        lower, upper = descending[:, last - below], descending[:, max(last - below - 1, 0)]
        found.append(lower + (upper - lower) * (rank - below))
    return torch.stack(found, -1)


def require(device: str) -> None:
    """Raises UsageError where what counts on the device is not installed."""
    if torch.device(device).type == "cuda" and find_spec("numba_cuda") is None:
        version = (torch.version.cuda or "13").partition(".")[0]
        raise UsageError(
            f"device={device}: numba-cuda, by which the observer counts there, is not installed: "
            f"pip install 'numba-cuda[cu{version}]'"
        )


def _counts_in_one_launch(x: Tensor) -> bool:
    """Whether the device counts all sites of a hook at once, and is not waited for."""
    return x.device.type == "cuda"


def _parts(x: Tensor) -> int:
    """In how many parts extremes of a channel are kept."""
    if _counts_in_one_launch(x):
        return cuda_rows.PARTS
    from sweep.calibration import count_cpu  # which needs a compiler

    return count_cpu.PARTS


def scaled(x: Tensor, shift: int) -> Tensor:
    """x times 2^shift, in two steps: the factor itself may be beyond float32."""
    return x * 2.0 ** (shift // 2) * 2.0 ** (shift - shift // 2) if shift else x


class _Accumulator:
    """What is observed of one site in one fold; all but quantiles is of the values times 2^shift.

    texts: how many there were, and strange: the least number of one that is not finite, both on CUDA devices only."""

    texts = 0
    strange: Tensor | None = None

    def __init__(self, x: Tensor, alphas: tuple[float, ...], shift: int, abs_sum: Sums | None) -> None:
        self.alphas = alphas
        self.shift = shift
        self.quantiles: list[Tensor] = []
        channels = x.shape[-1]
        self.dtype = x.dtype
        self.counts = torch.zeros(BINS, dtype=torch.int64, device=x.device)
        at_once = _counts_in_one_launch(x)
        # what a CPU counts first, to be added to `counts`
        self.recent = torch.zeros(0 if at_once else BINS, dtype=torch.int32, device=x.device)
        self.held = 0  # values in `recent`
        if at_once:
            self.strange = cuda_rows.none_strange(x.device)
        parts = _parts(x)
        self.low = torch.full((parts, channels), torch.inf, device=x.device)
        self.high = torch.full((parts, channels), -torch.inf, device=x.device)
        self.abs_sum = torch.zeros(1, channels, dtype=torch.float64, device=x.device)
        if abs_sum is not None:
            self.abs_sum[0] = torch.from_numpy(abs_sum * 2.0**shift)
        self.text_mean = torch.zeros(parts, channels, device=x.device)

    def add(self, x: Tensor) -> Tensor:
        """Observe x [batch, seq, channels]; returns whether each text was all finite, bool [batch]."""
        x = self._prepared(x)
        if x.shape[1] > STRETCH or x.numel() > MOST:
            return torch.cat([self._long(text) for text in torch.split(x, 1)])
        return self._count(x)

    def _prepared(self, x: Tensor) -> Tensor:
        """The values to be counted, those of texts' quantiles taken."""
        if self.alphas:
            self.quantiles.append(text_quantiles(x, self.alphas))
        return scaled(x, self.shift)

    def row(self, x: Tensor | Convolved) -> cuda_rows.Row:
        """What a launch of `sweep.calibration.count_cuda` needs in order to observe x [batch, seq, channels]."""
        assert self.strange is not None
        kept = self.counts, self.low, self.high, self.abs_sum, self.text_mean, self.strange
        before, self.texts = self.texts, self.texts + len(x)
        if isinstance(x, Tensor):
            return cuda_rows.Row(self._prepared(x), *kept, before)
        return cuda_rows.Row(x.entered, *kept, before, x)

    def _long(self, text: Tensor) -> Tensor:
        """Observe a text [1, seq, channels] stretch by stretch, so that neither its counts nor its sums go astray."""
        tokens, channels = text.shape[1:]
        largest, mean = self.text_mean, torch.zeros(channels, dtype=torch.float64, device=text.device)
        finite = torch.ones(1, dtype=torch.bool, device=text.device)
        for part in torch.split(text, max(1, min(STRETCH, MOST // channels)), 1):
            self.text_mean = torch.zeros_like(largest)
            finite &= self._count(part)
            mean += self.text_mean.amax(0).double() * part.shape[1] / tokens
        self.text_mean = largest
        largest[0] = torch.maximum(largest[0], mean.float())
        return finite

    def _count(self, x: Tensor) -> Tensor:
        if self.held + x.numel() > MOST:
            self._carry()
        self.held += x.numel()
        kept = self.recent, self.low, self.high, self.abs_sum, self.text_mean
        from sweep.calibration import count_cpu

        finite: Tensor = count_cpu.tally(x, *kept)
        return finite

    def _carry(self) -> None:
        if self.held:
            self.counts += self.recent
            self.recent.zero_()
            self.held = 0

    def finish(self) -> SiteFold:
        self._carry()
        back = 2.0**-self.shift
        histogram = Histogram.from_dense(
            LAYOUTS[self.dtype].times(self.shift),
            self.counts.cpu().numpy(),
            float(self.low.min()) * back,
            float(self.high.max()) * back,
        )
        largest = torch.maximum(self.low.amin(0).abs(), self.high.amax(0).abs())
        quantiles = torch.cat(self.quantiles).cpu().numpy() if self.alphas else np.zeros((0, 0, 3))
        absmax, total, mean = (t.cpu().numpy() for t in (largest, self.abs_sum.sum(0), self.text_mean.amax(0)))
        absmax, mean = ((a * back).astype(np.float32) for a in (absmax.astype(np.float64), mean.astype(np.float64)))
        return SiteFold(histogram, absmax, total * back, mean, np.array(self.alphas, np.float64), quantiles)


class Observer:
    """Accumulates one fold. Call it with (layer, site, values), `settle` before the values may change, `check`
    after each batch, `finish` at the end.

    alphas: whose quantiles are taken of each text. shifts: sites of float32 that are counted times so many powers of
    two, see `sweep.quantization.window`."""

    def __init__(self, alphas: tuple[float, ...] = (), shifts: Mapping[Key, int] | None = None) -> None:
        self._alphas = alphas
        self._shifts = shifts or {}
        self._sites: dict[Key, _Accumulator] = {}
        self._abs_sums: Mapping[Key, Sums] = {}
        self._waiting: dict[Key, list[Tensor]] = {}
        self._finite: list[tuple[Key, Tensor]] = []
        self._texts: list[int] = []  # sample numbers of the texts that were handed over since the fold began

    def __call__(self, layer: int, site: str, x: Tensor) -> None:
        """Observe the values x [batch, seq, channels] of one site, bf16, fp16 or fp32, on a CPU or a CUDA device."""
        if (layer, site) not in self._sites:
            shift, begun = self._shifts.get((layer, site), 0), self._abs_sums.get((layer, site))
            self._sites[layer, site] = _Accumulator(x, self._alphas, shift, begun)
        self._waiting.setdefault((layer, site), []).append(x)

    def settle(self) -> None:
        """Observe what was handed over since the last call."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        if at_once := [(key, x) for key, tensors in waiting.items() for x in tensors if _counts_in_one_launch(x)]:
            from sweep.calibration import count_cuda

            for launch in one_of_each(at_once):
                count_cuda.count([self._sites[key].row(x) for key, x in launch.items()])
            return
        # a site is one thread's, so that no two touch the same counts; the largest go first
        todo = deque(sorted(waiting, key=lambda key: -sum(x.numel() for x in waiting[key])))
        found: dict[Key, list[Tensor]] = {}

        def work() -> None:
            with torch.inference_mode():  # which is a state of the thread
                while True:
                    try:
                        key = todo.popleft()
                    except IndexError:
                        return
                    found[key] = [self._sites[key].add(x) for x in waiting[key]]

        others = min(torch.get_num_threads(), len(waiting)) - 1
        helpers = [_threads(torch.get_num_threads() - 1).submit(work) for _ in range(others)]
        work()
        for helper in helpers:
            if not helper.cancel():  # nothing is left for one that has not begun
                helper.result()
        self._finite += [(key, finite) for key in waiting for finite in found[key]]

    def check(self, samples: Sequence[int]) -> None:
        """Raises UsageError naming layer, site and sample where a NaN or an infinity passed since the last call.

        samples: the numbers of the texts of the batch, for the message. A CUDA device is not asked yet: `state` and
        `finish` raise for it."""
        self.settle()
        self._texts += samples
        seen, self._finite = self._finite, []
        if not seen or bool(torch.stack([finite for _, finite in seen]).all()):
            return
        (layer, site), finite = min(
            (item for item in seen if not bool(item[1].all())), key=lambda item: list(self._sites).index(item[0])
        )
        raise _strange(layer, site, samples[int((~finite).nonzero()[0])])

    def _ask(self) -> None:
        """Raises UsageError as `check` does, for a fold on a CUDA device; waits for it."""
        asked = [(key, site.strange) for key, site in self._sites.items() if site.strange is not None]
        if not asked:
            return
        texts = torch.cat([strange for _, strange in asked]).cpu().tolist()
        (layer, site), text = min(
            ((key, text) for (key, _), text in zip(asked, texts, strict=True)), key=lambda item: item[1]
        )
        if text < self._sites[layer, site].texts:
            raise _strange(layer, site, self._texts[min(text, len(self._texts) - 1)])

    def state(self) -> dict[Key, dict[str, Any]]:
        """All that has been observed of this fold so far: tensors and plain values, for `restore`."""
        self._ask()
        return {key: vars(site) for key, site in self._sites.items()}

    def begin(self, abs_sums: Mapping[Key, Sums]) -> None:
        """Start a fold's sums of |x| per channel, float64 [channels], where those of earlier samples ended. Nothing
        else depends on the order of samples."""
        self._abs_sums = abs_sums

    def restore(self, state: dict[Key, dict[str, Any]]) -> None:
        """Go on, bit for bit, where another observer's `state` was taken."""
        for key, values in state.items():
            self._sites[key] = site = _Accumulator.__new__(_Accumulator)
            vars(site).update(values)
            self._texts = [-1] * site.texts  # finite ones, else they would not have been saved

    def finish(self) -> dict[Key, SiteFold]:
        """The fold's statistics; the observer is empty again afterwards."""
        self.settle()
        self._ask()
        self._texts = []
        done = {key: site.finish() for key, site in self._sites.items()}
        self._sites.clear()
        return done


def one_of_each(waiting: Sequence[tuple[Key, T]]) -> list[dict[Key, T]]:
    """What waits of sites, dealt so that no launch has two of one site, whose sums would get in each other's way."""
    launches: list[dict[Key, T]] = []
    for key, x in waiting:
        launch = next((launch for launch in launches if key not in launch), None)
        if launch is None:
            launches.append(launch := {})
        launch[key] = x
    return launches


def _strange(layer: int, site: str, sample: int) -> UsageError:
    return UsageError(
        f"NaN or infinity at layer {layer}, site {site}, in sample {sample}: statistics of it would be worthless. "
        "Try dtype=float32 (float16 overflows at 65504), or check the weights"
    )


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    """So many threads that each compute on one, beside the one that calls."""
    started = Barrier(number + 1)

    def start() -> None:
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(number, "observer", start)
    for _ in range(number):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(number + 1)  # part of the setting is the process's and not the thread's
    return pool
