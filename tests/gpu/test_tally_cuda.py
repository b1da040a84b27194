"""The kernels for CUDA devices, compiled and run: `python -m pytest -m gpu`. In numba's simulator CI runs them, too."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCABULARY, Family

from sweep.calibration.differentiate import differentiate
from sweep.calibration.gradients import Gradients
from sweep.calibration.observer import Observer
from sweep.calibration.taps import taps
from sweep.models.kernels.conv import lazily
from sweep.models.load import Model
from sweep.models.mixer import mixers
from tests import launches, weighing
from tests.tallies import CHANNELS, DTYPES, ORDERS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_kernel_finds_what_torch_finds(dtype: torch.dtype) -> None:
    for channels in CHANNELS:
        for order in ORDERS:
            launches.check_one_site(dtype, channels, order, "cuda")
    launches.check_hook(dtype, "cuda")
    launches.check_strange(dtype, "cuda")
    launches.check_special(dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel", "biased"), [(4, True), (4, False), (2, True)])
def test_convolutions_are_computed_as_they_are_counted(dtype: torch.dtype, kernel: int, biased: bool) -> None:
    launches.check_convolution(dtype, kernel, biased, "cuda")


def test_every_code_and_long_texts() -> None:
    launches.check_every_code("cuda")
    launches.check_long_texts("cuda")
    launches.check_overlapping("cuda")


def test_sums_go_on_text_after_text() -> None:
    for _ in range(5):  # whichever block is done last
        launches.check_sums_go_on("cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_squared_gradients_are_summed_exactly(dtype: torch.dtype) -> None:
    weighing.check_squares(dtype, "cuda")
    weighing.check_strange(dtype, "cuda")
    weighing.check_any_order("cuda")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_gradients_of_a_network_are_summed_to_the_same_bits_every_time(family: Family) -> None:
    lm = family.build(torch.bfloat16).to("cuda")

    def backbone(ids: torch.Tensor) -> torch.Tensor:
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    model = Model("x", lm, backbone, tuple(mixers(lm)), torch.device("cuda"), "transformers")
    ids = torch.randint(3, VOCABULARY, (200,), generator=torch.Generator().manual_seed(0)).numpy()
    met: list[tuple[int, str, torch.Tensor, torch.Tensor]] = []
    differentiate(model, ids, 0, 0, lambda *site: met.append(site))
    here = Gradients()
    for layer, site, x, g in met:
        here(layer, site, x.cpu(), g.cpu())
    expected = here.finish()
    first = None
    for _ in range(3):
        there = Gradients()
        for layer, site, x, g in met:
            there(layer, site, x, g)
        summed = there.finish()
        assert summed.keys() == expected.keys()
        for key, own in summed.items():
            assert np.array_equal(own.bins, expected[key].bins)
            np.testing.assert_allclose(own.weights, expected[key].weights, rtol=1e-12)
            assert first is None or np.array_equal(own.weights, first[key].weights)
        first = summed


def test_a_mixer_costs_few_kernels_and_nothing_is_waited_for() -> None:
    lm = FAMILIES[2].build(torch.bfloat16).to("cuda")
    ids = torch.randint(3, VOCABULARY, (2, 64), generator=torch.Generator().manual_seed(0)).to("cuda")
    watched, own = Observer(), tuple(mixers(lm))
    kernels_run = []
    with torch.inference_mode():
        for observed in (False, True, True):
            with ExitStack() as stack:
                if observed:
                    stack.enter_context(taps(own, watched, lazily, settle=watched.settle))
                activities = [torch.profiler.ProfilerActivity.CUDA]
                with torch.profiler.profile(activities=activities) as profile:
                    torch.cuda.set_sync_debug_mode("error" if len(kernels_run) == 2 else "default")
                    lm.base_model(ids, use_cache=False)
                    watched.check(range(2 if observed else 0))
                    torch.cuda.set_sync_debug_mode("default")
                    torch.cuda.synchronize()
            events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
            kernels_run.append(sum(not e.name.startswith(("Memcpy", "Memset")) for e in events))
    assert kernels_run[2] - kernels_run[0] <= 6 * len(own)


def test_a_fold_observed_there_is_the_fold_observed_here() -> None:
    x = torch.randn(9, 40, 72, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = []
    for device in ("cpu", "cuda"):
        observer = Observer((0.9,))
        for part in (x[:5], x[5:]):
            observer(0, "a", part.to(device))
            observer(0, "b", part.to(device)[..., 8:])
            observer.check(range(len(part)))
        found.append(observer.finish())
    here, there = found
    for key in here:
        launches.check_fold(here[key], there[key])
        np.testing.assert_allclose(here[key].text_quantiles, there[key].text_quantiles, rtol=1e-6)
