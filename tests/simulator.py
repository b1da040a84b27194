"""numba's simulator of a CUDA device, with barriers that sleep.

Its own manager of a block asks all threads over and over whether they wait, which takes as much of the processor as
what they compute. To be imported where NUMBA_ENABLE_CUDASIM is set."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel


def run(self: kernel.BlockManager, grid_point: tuple[int, ...], *args: Any) -> None:
    """One block, each of its threads a thread of Python; raises what one of them raised."""
    barrier = threading.Barrier(int(np.prod(self._block_dim)))

    def body() -> None:
        try:
            self._f(*args)
        except BaseException:
            barrier.abort()  # or the others would wait for it
            raise

    places = np.ndindex(*self._block_dim)
    threads = [kernel.BlockThread(body, self, grid_point, place, self._debug) for place in places]
    for thread in threads:
        thread.syncthreads = partial(barrier.wait, 60)
        thread.start()
    for thread in threads:
        thread.join()
    raised = [thread.exception for thread in threads if thread.exception]
    for error, trace in sorted(raised, key=lambda e: isinstance(e[0], threading.BrokenBarrierError)):
        raise error.with_traceback(trace)


kernel.BlockManager.run = run
