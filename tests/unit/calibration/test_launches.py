"""What a hook asks of a CUDA device, counted on a CPU: kernels, memory, and that nothing waits for it.

The tensors lie on the CPU and are taken for a device's; a launch is counted and not run. Besides the project's own
kernels every operation of torch counts that computes something: a view does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import FAMILIES, VOCABULARY, Family
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sweep.calibration import count_cuda, counting, weigh_cuda
from sweep.calibration.differentiate import differentiate
from sweep.calibration.gradients import Gradients
from sweep.calibration.observer import Observer
from sweep.calibration.taps import taps
from sweep.models.kernels.conv import Convolved, lazily
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.models.mixer import mixers

MOST = 6  # per mixer
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "lift_fresh", "detach", "detach_", "_pin_memory"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "item"}
IDS = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


class Asked(TorchDispatchMode):
    """Counts what is computed, by name, and refuses whatever would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        assert name not in WAITS, f"{name} waits for the device"
        views = [r.alias_info for r in func._schema.returns if r.alias_info and not r.alias_info.is_write]
        if not views and name not in NO_KERNEL:
            self.computed[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The project's kernels that are launched while it lasts."""
    counted: Counter[str] = Counter()

    def launch(kernel: Any, blocks: int, threads: int, device: torch.device, *arguments: Any) -> None:
        assert blocks > 0
        counted[kernel.py_func.__name__] += 1

    for module in (count_cuda, weigh_cuda):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(counting, "in_one_launch", lambda _: True)
    return counted


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a value leaves the device")


@contextmanager
def hooks_watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Whatever hook is set inside is counted while it runs, and no value may leave the device then."""
    asked = Asked()

    def watched(hook: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with pytest.MonkeyPatch.context() as patched, asked:
                for name in ("cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__"):
                    patched.setattr(Tensor, name, refuse)
                return hook(*arguments)

        return run

    with monkeypatch.context() as patched:
        for owner, name in (
            (torch.nn.Module, "register_forward_hook"),
            (torch.nn.Module, "register_forward_pre_hook"),
            (Tensor, "register_hook"),
        ):
            own = getattr(owner, name)
            patched.setattr(owner, name, lambda it, hook, own=own: own(it, watched(hook)))
        yield asked


def network(family: Family, dtype: torch.dtype = torch.bfloat16) -> Model:
    lm = family.build(dtype)

    def backbone(ids: Tensor) -> Tensor:
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model("x", lm, backbone, tuple(mixers(lm)), torch.device("cpu"), "transformers")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_mixer_costs_few_kernels_and_nothing_waits(
    family: Family, launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, watched = network(family), Observer()

    def addresses() -> dict[Any, dict[str, int]]:
        return {
            key: {name: t.data_ptr() for name, t in vars(site).items() if isinstance(t, Tensor)}
            for key, site in watched._sites.items()
        }

    with (
        torch.inference_mode(),
        hooks_watched(monkeypatch) as asked,
        taps(model.mixers, watched, lazily, settle=watched.settle) as fired,
    ):
        for _ in range(2):
            kept = addresses()  # the first pass allocates them
            launched.clear()
            asked.computed.clear()
            model.backbone(IDS)
            with asked:
                fired.check(IDS.numel())
                watched.check(range(len(IDS)))
    assert kept == addresses()
    assert len(kept) == sum(len(mixer.sites) for mixer in model.mixers)
    # of all sites up to the convolution, with what has entered the out_proj before; and of what enters the last one
    assert launched == {"_count": len(model.mixers) + 1}
    assert launched.total() + asked.computed.total() <= MOST * len(model.mixers), asked.computed
    multiplied = family.name == "falcon_h1"  # by a factor for each channel, before the convolution
    assert asked.computed.keys() <= ({"mul"} if multiplied else set())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_a_hook_of_gradients_is_two_kernels_and_nothing_waits(
    family: Family, launched: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, own = network(family, torch.float32), Gradients()
    with hooks_watched(monkeypatch) as asked:
        for _ in range(2):
            digits = own._digits
            launched.clear()
            asked.computed.clear()
            differentiate(model, IDS[0].numpy(), 0, 0, own, own.settle)
    # what enters and leaves the convolution, and what enters both projections
    assert launched == {"_weigh": 4 * len(model.mixers), "_settle": 4 * len(model.mixers)}
    assert own._digits is digits is not None


def test_convolutions_are_counted_without_their_tensors(launched: Counter[str]) -> None:
    """Where nothing but an observer asks for them on a CUDA device; with percentiles of texts they are computed."""
    with kernels((), torch.device("cuda"), tensors=False) as convolve:
        assert convolve is lazily
    x, weight, bias = torch.ones(1, 5, 6), torch.ones(6, 1, 4), torch.ones(6)
    before, after = lazily(x, weight, bias)
    assert isinstance(before, Convolved)
    assert (before.silu, after.silu) == (False, True)
    parts = after[..., :4], after[..., 4:]
    assert [part.numel() for part in parts] == [20, 10]
    assert parts[1].weight.data_ptr() == weight[4:].data_ptr()
    for wide in (lazily(x, torch.ones(6, 1, 5), bias), lazily(x, weight.half(), bias.half())):
        assert all(isinstance(t, Tensor) for t in wide)
    with kernels((), torch.device("cuda")) as convolve:
        assert all(isinstance(t, Tensor) for t in convolve(x, weight, bias))
