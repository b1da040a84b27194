"""Squared gradients: those of transformers' own network, at the sites where quantization writes, bin by bin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import small
import torch
from families import FAMILIES, VOCABULARY, Family
from torch import Tensor
from torch.nn import functional as F

from sweep.calibration import differentiate as backward_pass
from sweep.calibration.collect import Collect
from sweep.calibration.differentiate import differentiate
from sweep.calibration.gradients import Gradients, preimage
from sweep.calibration.loop import calibrate
from sweep.calibration.taps import taps
from sweep.calibration.tokens import Tokens
from sweep.config import knobs
from sweep.config.knobs import Calibration
from sweep.core.errors import UsageError
from sweep.core.progress import GRADIENTS, SAMPLES
from sweep.evaluation.channel_quantizer import Rounding
from sweep.evaluation.fake_quant import fake_quantized
from sweep.models import load
from sweep.models.head import logits
from sweep.models.kernels import ssd
from sweep.models.kernels.patch import kernels
from sweep.models.load import Model
from sweep.models.mixer import Mixer, mixers
from sweep.quantization.bins import SIGN
from sweep.quantization.formats import FORMATS
from sweep.quantization.sites import quantized

IDS = np.random.default_rng(1).integers(3, VOCABULARY, 21)
Met = dict[tuple[int, str], tuple[Tensor, Tensor]]  # values and gradients, [1, seq, channels]


def network(lm: Any) -> Model:
    def backbone(ids: Tensor) -> Tensor:
        return lm.base_model(ids, use_cache=False)[0]  # type: ignore[no-any-return]

    return Model("x", lm, backbone, tuple(mixers(lm)), torch.device("cpu"), "transformers")


def differentiated(model: Model, ids: Any = IDS, seed: int = 7, sample: int = 5) -> Met:
    met: Met = {}

    def meet(layer: int, site: str, x: Tensor, g: Tensor) -> None:
        assert (layer, site) not in met
        met[layer, site] = x.clone(), g.clone()

    with kernels(model.mixers, model.device):
        differentiate(model, ids, seed, sample, meet)
    return met


def by_hand(lm: Any, seed: int, sample: int, patch: pytest.MonkeyPatch) -> Met:
    """From transformers' own loss of labels, with a tensor of its own put in wherever a site is read."""
    leaves: dict[tuple[int, str], tuple[Tensor, slice]] = {}
    found = mixers(lm)
    order: Iterator[Mixer] = iter(found)

    def leaf(x: Tensor, layer: int, sites: dict[str, int]) -> Tensor:
        moved = x + torch.zeros_like(x).requires_grad_()  # the gradient by what is added is that by x here alone
        moved.retain_grad()
        start = 0
        for site, width in sites.items():
            leaves[layer, site] = moved, slice(start, start + width)
            start += width
        return moved

    def entered(linear: Any, layer: int, site: str) -> Callable[[Tensor], Tensor]:
        own: Callable[[Tensor], Tensor] = linear.forward
        return lambda x: own(leaf(x, layer, {site: x.shape[-1]}))

    modelling = sys.modules[type(found[0].module).__module__]
    own: Callable[..., Tensor] = modelling.causal_conv1d_fn

    def convolution(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        mixer = next(order)

        def site(stage: str, tensor: Tensor) -> Tensor:
            names = {f"{part}_{stage}": width for part, width in mixer.parts}
            return leaf(tensor.transpose(1, 2), mixer.layer, names).transpose(1, 2)

        return site("conv_out", own(site("conv_in", x), *rest, **named))

    with patch.context() as patched, torch.enable_grad():
        for mixer in found:
            for name in ("in_proj", "out_proj"):
                linear = getattr(mixer.module, name)
                patched.setattr(linear, "forward", entered(linear, mixer.layer, f"{name}_in"))
        patched.setattr(modelling, "causal_conv1d_fn", convolution)
        said = F.log_softmax(lm(torch.from_numpy(IDS)[None], use_cache=False).logits[0].double(), -1)
        uniform = np.random.default_rng([seed, sample]).random(len(IDS))
        labels = [
            int((p.cumsum(0) / p.sum() > u).nonzero()[0]) for p, u in zip(said.detach().exp(), uniform, strict=True)
        ]
        sum(row[label] for row, label in zip(said, labels, strict=True)).backward()
    assert next(order, None) is None
    return {key: (x.detach()[..., part], x.grad[..., part]) for key, (x, part) in leaves.items()}  # type: ignore[index]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_gradients_are_transformers_own(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    factor = {"falcon_h1": {"lm_head_multiplier": 0.3}, "granitemoehybrid": {"logits_scaling": 3.0}}
    lm = replace(family, settings=family.settings | factor.get(family.name, {})).build(torch.float64)
    if lm._can_set_experts_implementation():  # the others multiply no float64
        lm.set_experts_implementation("eager")
    expected = by_hand(lm, 7, 5, monkeypatch)
    met = differentiated(network(lm))
    assert met.keys() == expected.keys()
    assert met.keys() == {(m.layer, site) for m in mixers(lm) for site in m.sites if site in quantized()}
    for key, (x, g) in met.items():
        its_x, its_g = expected[key]
        assert x.shape == g.shape == its_g.shape
        assert float(its_g.abs().max()) > 0, key
        # transformers' own norms and scans compute in float32, whatever the network is in
        torch.testing.assert_close(x, its_x, rtol=0, atol=1e-5 * float(its_x.abs().max()), msg=str(key))
        torch.testing.assert_close(g, its_g, rtol=0, atol=1e-5 * float(its_g.abs().max()), msg=str(key))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_values_are_what_the_taps_see_and_none_is_missing(family: Family, dtype: torch.dtype) -> None:
    model = network(family.build(dtype))
    seen: dict[tuple[int, str], Tensor] = {}

    def observe(layer: int, site: str, x: Tensor) -> None:
        seen[layer, site] = x.clone()

    with torch.inference_mode(), kernels(model.mixers, model.device) as own, taps(model.mixers, observe, own):
        model.backbone(torch.from_numpy(IDS)[None])
    met = differentiated(model)
    assert met.keys() == {key for key in seen if key[1] in quantized()}
    for (layer, site), (x, g) in met.items():
        width = next(m for m in model.mixers if m.layer == layer).widths[site]
        assert x.numel() == g.numel() == len(IDS) * width
        assert x.dtype is g.dtype is dtype
        assert torch.equal(x, seen[layer, site]), (layer, site)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_bin_holds_the_squares_of_its_values(dtype: str) -> None:
    random = torch.Generator().manual_seed(0)
    x, g = (torch.randn(2, 1, 50, 12, generator=random) * 3).to(getattr(torch, dtype))
    x[0, 0, 0], x[0, 1, :4] = 0, torch.tensor([-0.0, 1e-9, -1e-9, 7.0])
    gradients = Gradients()
    for part in (slice(0, 30), slice(30, 50)):  # neither x nor g lies in one piece
        gradients(3, "x_conv_in", x[:, part, 2:9], g[:, part].mT.contiguous().mT[..., 2:9])
    gradients.tokens = 50
    found = gradients.finish()[3, "x_conv_in"]
    values = x[..., 2:9].flatten()
    codes = values.to(torch.float16).view(torch.int16) if dtype == "float32" else values.view(torch.int16)
    width = max(found.layout.width, 1)
    dense = np.zeros(65536)
    np.add.at(dense, codes.numpy().view(np.uint16) // width * width, g[..., 2:9].flatten().double().numpy() ** 2)
    assert np.array_equal(found.bins, np.flatnonzero(dense))
    np.testing.assert_allclose(found.weights[0], dense[found.bins], rtol=1e-13)
    assert found.tokens.tolist() == [50]
    magnitude = np.abs(values.double().numpy())
    index = found.bins & (SIGN - 1)
    assert found.layout.edges[index].min() <= magnitude.min()
    assert found.layout.edges[index + found.layout.width].max() >= magnitude.max()


def test_labels_follow_from_seed_and_sample_alone() -> None:
    model = network(FAMILIES[2].build())
    first = differentiated(model)
    for (x, g), (its_x, its_g) in zip(first.values(), differentiated(model).values(), strict=True):
        assert torch.equal(x, its_x)
        assert torch.equal(g, its_g)
    for other in ({"seed": 8}, {"sample": 6}):
        changed = differentiated(model, **other)
        assert not any(torch.equal(g, changed[key][1]) for key, (_, g) in first.items())


def test_labels_are_drawn_from_the_networks_own_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient by the logits is one-hot minus probability: its mean over draws is 0, its square p (1 - p)."""
    model = network(FAMILIES[2].build())
    said = torch.randn(1, 9, generator=torch.Generator().manual_seed(0)) * 2
    monkeypatch.setattr(backward_pass, "logits", lambda _, states: states)
    draws, p = 4000, said.softmax(-1)[0]
    drawn = torch.stack([backward_pass.log_likelihood_gradient(model, said, 0, i)[0] for i in range(draws)])
    chosen = drawn.argmax(-1).bincount(minlength=9) / draws
    assert ((chosen - p).abs() < 4 * (p * (1 - p) / draws).sqrt()).all()
    torch.testing.assert_close((drawn + p).sum(-1), torch.ones(draws))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = small.write(tmp_path_factory.mktemp("model"))
    return load.load(knobs.Model("small", str(path)), "cpu", "float32")


def tokens(samples: int = 8, length: int = 24) -> Tokens:
    return Tokens("random", tuple(np.random.default_rng(0).integers(3, 259, (samples, length))))


def test_of_groups_each_has_its_own(tiny: Model) -> None:
    calibration = Calibration(samples=4, seqlen=24, folds=2, fisher=3)
    whole, _ = calibrate(tiny, tokens(4), calibration, lambda *_: None)
    halves = {"x_conv_in[a]": np.arange(0, 64, 2), "x_conv_in[b]": np.arange(1, 64, 2)}
    parts, _ = calibrate(
        tiny, tokens(4), calibration, lambda *_: None, None, Collect(groups={(1, "x_conv_in"): halves})
    )
    assert set(parts.sites) == {(1, name) for name in halves}
    fisher = [site.fisher for site in parts.sites.values()]
    together = whole.sites[1, "x_conv_in"].fisher
    assert together is not None
    summed = np.zeros((2, 65536))
    for part in fisher:
        assert part is not None
        assert part.tokens.tolist() == together.tokens.tolist() == [48, 24]
        summed[:, part.bins] += part.weights
    np.testing.assert_allclose(summed[:, together.bins], together.weights, rtol=1e-12)
    assert summed.sum() == pytest.approx(together.weights.sum(), rel=1e-12)


def test_a_dead_site_costs_nothing(tmp_path: Any) -> None:
    """Where nothing reads what a site says, its gradients are 0, and so is their sum; no NaN."""
    model = load.load(knobs.Model("small", str(small.write(tmp_path))), "cpu", "float32")
    with torch.no_grad():
        model.mixers[1].module.out_proj.weight.zero_()
    found, _ = calibrate(model, tokens(4), Calibration(samples=4, seqlen=24, folds=2, fisher=4), lambda *_: None)
    found.save(tmp_path / "found.parquet")
    for statistics in (found, type(found).load(tmp_path / "found.parquet")):
        for (layer, name), site in statistics.sites.items():
            if name in quantized():
                assert site.fisher is not None
                assert site.fisher.tokens.tolist() == [48, 48]
                assert site.fisher.weights.shape == (2, len(site.fisher.bins))
                assert (site.fisher.weights.sum() == 0) == (layer == 1)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        return arguments[0].clone()  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["detached", "no backward", "inference"])
def test_a_kernel_without_gradient_is_one_clear_line(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(FAMILIES[2].build())
    own = ssd.chunk_scan

    def scan(*arguments: Any, **named: Any) -> Any:
        if how == "no backward":
            return NoBackward.apply(own(*arguments, **named))
        with torch.no_grad() if how == "detached" else torch.inference_mode():
            return own(*arguments, **named)

    monkeypatch.setattr(ssd, "chunk_scan", scan)
    with pytest.raises(UsageError, match=r"calibration.fisher: a kernel of .*Mamba2Mixer has no gradient") as error:
        differentiated(model)
    assert "calibration.fisher=0" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_gradient_that_is_cut_where_the_residual_goes_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(FAMILIES[2].build())
    linear = model.mixers[1].module.out_proj
    own = linear.forward
    monkeypatch.setattr(linear, "forward", lambda x: own(x.detach()))
    with pytest.raises(
        UsageError, match=r"has no gradient \(in_proj_in of layer 1: 0 values were differentiated where"
    ):
        differentiated(model)


def test_a_gradient_that_is_not_finite_is_an_error_by_name(tmp_path: Any) -> None:
    model = load.load(knobs.Model("small", str(small.write(tmp_path))), "cpu", "float16")
    gradients = Gradients()
    x = torch.ones(1, 2, 3, dtype=torch.float16)
    with pytest.raises(UsageError, match="layer 4, site x_conv_in is NaN or infinite"):
        gradients(4, "x_conv_in", x, x * torch.tensor([1, torch.inf, 1]))
    assert model.device.type == "cpu"


@pytest.mark.parametrize("number", [-1, 1, 3])
def test_how_many_samples_may_be_differentiated(number: int) -> None:
    with pytest.raises(UsageError, match=r"calibration.fisher=.* at least calibration.folds=4, one a fold"):
        Calibration(samples=8, folds=4, fisher=number)
    assert Calibration(samples=8, folds=4, fisher=4).fisher == 4
    assert Calibration(samples=8, folds=4, fisher=64).fisher == 8  # all there are


def test_nothing_asked_for_changes_no_identity() -> None:
    assert preimage(Calibration()) == {}
    assert preimage(Calibration(fisher=64, seed=3))["fisher"] | {"version": 0} == {
        "samples": 64,
        "label_seed": 3,
        "version": 0,
    }


def test_half_of_the_weighted_squares_is_the_divergence_of_small_independent_errors(tiny: Model) -> None:
    """1/2 sum E[g^2] e^2 against measured KL, e independent noise of a thousandth of each site's spread: to second
    order, and with independent errors the diagonal is all there is."""
    windows = tokens(24, 32).windows
    e: dict[tuple[int, str], float] = {}
    predicted, measured = [], []
    for number, ids in enumerate(windows):
        met = differentiated(tiny, ids, 0, number)
        for key, (x, _) in met.items():
            e.setdefault(key, 0.003 * float(x.std()))
        predicted.append(sum(float((g.double() ** 2).sum()) * e[key] ** 2 for key, (_, g) in met.items()) / 2)
        measured.append(noisy_divergence(tiny, ids, e, number))
    ratio = np.sum(measured) / np.sum(predicted)
    both = np.array([measured, predicted])
    leave_one_out = [np.divide(*np.delete(both, i, 1).sum(1)) for i in range(len(windows))]
    error = np.sqrt((len(windows) - 1) * np.var(leave_one_out))
    assert error < 0.15
    assert abs(ratio - 1) < 3 * error


def noisy_divergence(model: Model, ids: Any, e: dict[tuple[int, str], float], seed: int) -> float:
    """KL of the network to itself with noise of standard deviation e at every site, nats, over a sample in float64."""
    random = torch.Generator().manual_seed(seed)
    total, repeats = 0.0, 4
    rounding = Rounding(FORMATS["int8"], np.ones(1), np.zeros(1))
    with torch.inference_mode():
        p = F.log_softmax(logits(model, model.backbone(torch.from_numpy(ids)[None])[0]).double(), -1)
        for _ in range(repeats):
            with fake_quantized(model.mixers, dict.fromkeys(e, rounding)) as quantized:
                for key in e:
                    quantized.rounders[key] = lambda x, key=key: x + e[key] * torch.randn(x.shape, generator=random)  # type: ignore[index]
                q = F.log_softmax(logits(model, model.backbone(torch.from_numpy(ids)[None])[0]).double(), -1)
            total += float((p.exp() * (p - q)).sum())
    return total / repeats


def test_samples_and_gradients_are_counted_apart(tiny: load.Model) -> None:
    """Eight samples of two folds, four of them differentiated; both totals are known before anything is done."""
    calibration = Calibration(samples=8, seqlen=24, folds=2, batch_size=2, fisher=4)
    seen: list[tuple[str, int, int]] = []
    calibrate(tiny, tokens(8), calibration, lambda done, total, phase=SAMPLES: seen.append((phase, done, total)))
    assert seen[:2] == [(SAMPLES, 0, 8), (GRADIENTS, 0, 4)]
    assert seen[2:] == [
        (SAMPLES, 2, 8), (SAMPLES, 4, 8), (GRADIENTS, 1, 4), (GRADIENTS, 2, 4),
        (SAMPLES, 6, 8), (SAMPLES, 8, 8), (GRADIENTS, 3, 4), (GRADIENTS, 4, 4),
    ]  # fmt: skip
    plain: list[tuple[int, int]] = []
    calibrate(tiny, tokens(8), replace(calibration, fisher=0), lambda *at: plain.append(at[:2]))
    assert plain == [(0, 8), (2, 8), (4, 8), (6, 8), (8, 8)]
