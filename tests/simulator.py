"""numba's simulator of a CUDA device, for less of the processor: most of what its own takes is not the kernel's.

Its manager of a block asks all threads over and over whether they wait; here they take turns. Its shared arrays are
told apart by a traceback of all calls, here by the line that asks for one. To be imported where NUMBA_ENABLE_CUDASIM is
set."""

from __future__ import annotations

import sys
from threading import Lock
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel, kernelapi


class Turn(kernel.BlockThread):  # type: ignore[misc]
    """A thread of a block that runs when it is told to, as far as its next barrier or its end."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._go, self._there = Lock(), Lock()
        self._go.acquire()
        self._there.acquire()

    def go(self) -> None:
        """Returns when it waits at a barrier or is not alive any more."""
        if self.ident is None:
            self.start()
        else:
            self._go.release()
        self._there.acquire()

    def run(self) -> None:
        super().run()
        self.ended = True
        self._there.release()

    def syncthreads(self) -> None:
        self._there.release()
        self._go.acquire()


def run(self: kernel.BlockManager, grid_point: tuple[int, ...], *args: Any) -> None:
    """One block. Its threads take turns, in the opposite order after each barrier: so where a barrier is missing, one
    that reads comes before one that writes. Raises what one of them raised, or where not all come to a barrier."""
    threads = [
        Turn(lambda: self._f(*args), self, grid_point, place, self._debug) for place in np.ndindex(*self._block_dim)
    ]
    while threads:
        for thread in threads:
            thread.go()
            if thread.exception:
                error, trace = thread.exception
                raise error.with_traceback(trace)
        going = [thread for thread in threads if not thread.ended]
        assert len(going) in (0, len(threads)), f"{len(going)} threads wait for others that have ended"
        threads = going[::-1]


def shared_array(self: kernelapi.FakeCUDAShared, shape: int, dtype: Any) -> Any:
    """The array of a block that the line of the caller asks for."""
    caller = sys._getframe(1)
    place = caller.f_code, caller.f_lineno
    if place not in self._allocations:
        self._allocations[place] = np.empty(shape, dtype)
    return self._allocations[place]


Turn.ended = False
kernel.BlockManager.run = run
kernelapi.FakeCUDAShared.array = shared_array
