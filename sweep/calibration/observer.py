"""Observers: every site's tensors in, the statistics of one fold at a time out.

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
from functools import cache
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor

from sweep.calibration import counting
from sweep.calibration.accumulator import Accumulator, SiteFold, Sums
from sweep.core.errors import UsageError
from sweep.quantization.types import SiteKey

VERSION = 1  # of `Observer.state_dict`
T = TypeVar("T")


class Observer:
    """Accumulates one fold. Call it with (layer, site, values), `settle` before the values may change, `check`
    after each batch, `finish` at the end.

    alphas: whose quantiles are taken of each text. shifts: sites of float32 that are counted times so many powers of
    two, see `sweep.quantization.window`."""

    def __init__(self, alphas: tuple[float, ...] = (), shifts: Mapping[SiteKey, int] | None = None) -> None:
        self._alphas = alphas
        self._shifts = shifts or {}
        self._sites: dict[SiteKey, Accumulator] = {}
        self._abs_sums: Mapping[SiteKey, Sums] = {}
        self._waiting: dict[SiteKey, list[Tensor]] = {}
        self._finite: list[tuple[SiteKey, Tensor]] = []
        self._texts: list[int] = []  # sample numbers of the texts that were handed over since the fold began

    def __call__(self, layer: int, site: str, x: Tensor) -> None:
        """Observe the values x [batch, seq, channels] of one site, bf16, fp16 or fp32, on a CPU or a CUDA device."""
        if (layer, site) not in self._sites:
            shift, begun = self._shifts.get((layer, site), 0), self._abs_sums.get((layer, site))
            self._sites[layer, site] = Accumulator.begin(x, self._alphas, shift, begun)
        self._waiting.setdefault((layer, site), []).append(x)

    def settle(self) -> None:
        """Observe what was handed over since the last call."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        if at_once := [(key, x) for key, tensors in waiting.items() for x in tensors if counting.in_one_launch(x)]:
            from sweep.calibration import count_cuda

            for launch in one_of_each(at_once):
                count_cuda.count([self._sites[key].row(x) for key, x in launch.items()])
            return
        # a site is one thread's, so that no two touch the same counts; the largest go first
        todo = deque(sorted(waiting, key=lambda key: -sum(x.numel() for x in waiting[key])))
        finite: dict[SiteKey, list[Tensor]] = {}

        def work() -> None:
            with torch.inference_mode():  # which is a state of the thread
                while True:
                    try:
                        key = todo.popleft()
                    except IndexError:
                        return
                    finite[key] = [self._sites[key].add(x) for x in waiting[key]]

        others = min(torch.get_num_threads(), len(waiting)) - 1
        helpers = [_threads(torch.get_num_threads() - 1).submit(work) for _ in range(others)]
        work()
        for helper in helpers:
            if not helper.cancel():  # nothing is left for one that has not begun
                helper.result()
        self._finite += [(key, each) for key in waiting for each in finite[key]]

    def check(self, samples: Sequence[int]) -> None:
        """Raises UsageError naming layer, site and sample where a NaN or an infinity passed since the last call.

        samples: the numbers of the texts of the batch, for the message. A CUDA device is not asked yet: `state_dict`
        and `finish` raise for it."""
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

    def state_dict(self) -> dict[str, Any]:
        """Version and content of the running fold, tensors and plain values, for `load_state_dict`.

        Raises UsageError as `check` does."""
        self._ask()
        return {"version": VERSION, "sites": {key: site.state_dict() for key, site in self._sites.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, bit for bit, where another observer's `state_dict` was taken.

        Raises ValueError for that of another version, and then changes nothing."""
        if (version := state.get("version")) != VERSION:
            raise ValueError(f"an observer's state of version {version}; this is version {VERSION}")
        self._sites = {key: Accumulator.from_state_dict(values) for key, values in state["sites"].items()}
        # samples that were all finite, else they would not have been saved
        self._texts = [-1] * max((site.texts for site in self._sites.values()), default=0)

    def begin(self, abs_sums: Mapping[SiteKey, Sums]) -> None:
        """Start a fold's sums of |x| per channel, float64 [channels], where those of earlier samples ended. Nothing
        else depends on the order of samples."""
        self._abs_sums = abs_sums

    def finish(self) -> dict[SiteKey, SiteFold]:
        """The fold's statistics; the observer is empty again afterwards."""
        self.settle()
        self._ask()
        self._texts = []
        done = {key: site.finish() for key, site in self._sites.items()}
        self._sites.clear()
        return done


def one_of_each(waiting: Sequence[tuple[SiteKey, T]]) -> list[dict[SiteKey, T]]:
    """Waiting items dealt to launches, no two of one site in the same launch, since both would add to the same sums."""
    launches: list[dict[SiteKey, T]] = []
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
