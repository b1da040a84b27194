"""The functions that stand in for transformers' own on a CPU: the same numbers, and no trace left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from sweep.calibration.taps import taps
from sweep.models.kernels import selective_scan, ssd, ssd_blocks
from sweep.models.kernels.conv import SharedConvolution, convolve
from sweep.models.kernels.patch import kernels
from sweep.models.mixer import Mixer, mixers

CPU = torch.device("cpu")


def arguments(batch: int, seq: int, heads: int, dim: int, groups: int, state: int) -> dict[str, Any]:
    """As a mixer hands them over: x, B and C are slices of one tensor."""
    torch.manual_seed(seq)
    x, B, C = torch.randn(batch, seq, heads * dim + 2 * groups * state).split(
        [heads * dim, groups * state, groups * state], -1
    )
    return {
        "hidden_states": x.unflatten(2, (heads, dim)),
        "dt": 2 * torch.randn(batch, seq, heads),
        "A": -torch.arange(1.0, heads + 1),
        "B": B.unflatten(2, (groups, state)),
        "C": C.unflatten(2, (groups, state)),
        "chunk_size": 64,
        "D": torch.randn(heads),
        "dt_bias": torch.rand(heads) * 4 - 6,
        "dt_softplus": True,
        "dt_limit": (1e-4, 3.0),
    }


def recurrence(a: dict[str, Any], state: Tensor | None) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt A) h + dt x B, y = C h + D x, token by token in float64."""
    x, dt, A, B, C, D, bias = (a[k].double() for k in ("hidden_states", "dt", "A", "B", "C", "D", "dt_bias"))
    dt = F.softplus(dt + bias).clamp(*a["dt_limit"])
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], dim=2) for t in (B, C))
    h = torch.zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]).double() if state is None else state.double()
    ys = []
    for t in range(x.shape[1]):
        h = h * torch.exp(dt[:, t] * A)[..., None, None] + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(ys, 1), h


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 512, 6, 16, 1, 32), (1, 200, 4, 24, 2, 32), (2, 1, 4, 8, 2, 16), (1, 63, 2, 4, 1, 8), (1, 1100, 8, 8, 4, 16)],
)
def test_chunk_scan_is_the_recurrence(shape: tuple[int, ...], resumed: bool) -> None:
    a = arguments(*shape)
    batch, _, heads, dim, _, state = shape
    before = torch.randn(batch, heads, dim, state) if resumed else None
    exact = recurrence(a, before)
    ours = ssd.chunk_scan(**a, initial_states=before, return_final_states=True)
    theirs = modeling_mamba2.mamba2_chunk_scan(**a, initial_states=before, return_final_states=True)
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype is torch.float32
        error, allowed = ((t - truth).abs().max() for t in (mine, other))
        assert error <= 2 * allowed + 2e-7 * truth.abs().max()
    alone = ssd.chunk_scan(**a, initial_states=before)
    assert torch.equal(alone, ours[0])


def test_strong_decay_neither_overflows_nor_loses_digits() -> None:
    a = arguments(1, 256, 4, 8, 1, 16)
    a.update(A=torch.tensor([-1e-4, -1.0, -50.0, -2000.0]), dt_limit=(0.0, float("inf")))
    exact, _ = recurrence(a, None)
    ours = ssd.chunk_scan(**a)
    assert torch.isfinite(ours).all()
    for head in range(4):
        assert (ours[:, :, head] - exact[:, :, head]).abs().max() <= 1e-6 * exact[:, :, head].abs().max()


@pytest.mark.parametrize("shape", [(2, 300, 24, 16), (1, 1, 8, 4), (3, 70, 600, 16)])
def test_selective_scan_is_the_recurrence(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "BLOCK", 1 << 16)  # several blocks, the last one shorter
    batch, seq, channels, state = shape
    torch.manual_seed(0)
    x, dt, z = torch.randn(3, batch, seq, channels).mT
    B, C = torch.randn(2, batch, state, seq)
    A, D, bias = -torch.rand(channels, state) * 16, torch.randn(channels), torch.rand(channels) * 4 - 4
    found = selective_scan.selective_scan(
        x, dt, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True, use_mambapy=False
    )
    theirs = modeling_mamba.mamba_selective_scan(
        x, dt, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True
    )
    step = F.softplus(dt.double() + bias.double()[:, None])
    h, ys = torch.zeros(batch, channels, state).double(), []
    for t in range(seq):
        h = (
            h * torch.exp(step[..., t, None] * A.double())
            + (step * x.double())[..., t, None] * B[:, None, :, t].double()
        )
        ys.append((h * C[:, None, :, t].double()).sum(-1) + D.double() * x[..., t].double())
    exact = torch.stack(ys, -1) * F.silu(z.double()), h
    for mine, other, truth in zip(found, theirs, exact, strict=True):
        assert mine.shape == other.shape
        error, allowed = ((t - truth).abs().max() for t in (mine, other))
        assert error <= 2 * allowed + 2e-7 * truth.abs().max()


@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_of_the_scans_are_those_of_their_formulas(with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By finite differences in float64, over several blocks and chunks, the last one shorter."""
    monkeypatch.setattr(selective_scan, "BLOCK", 1 << 6)
    monkeypatch.setattr(ssd, "CHUNK", 4)
    monkeypatch.setattr(ssd_blocks, "BLOCK", 2)
    torch.manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    batch, seq, channels, state, heads, groups = 2, 11, 3, 2, 4, 2
    fixed = {"D": torch.randn(channels).double(), "delta_bias": torch.rand(channels).double()} if with_bias else {}
    A = -torch.rand(channels, state).double()

    def scan(x: Tensor, dt: Tensor, z: Tensor, B: Tensor, C: Tensor) -> Any:
        return selective_scan.selective_scan(x, dt, A, B, C, z=z, delta_softplus=True, **fixed)

    inputs = [leaf(batch, channels, seq) for _ in range(3)] + [leaf(batch, state, seq) for _ in range(2)]
    assert torch.autograd.gradcheck(scan, inputs)

    fixed2 = {"D": torch.randn(heads).double(), "dt_bias": torch.rand(heads).double()} if with_bias else {}

    def chunks(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Any:
        return ssd.chunk_scan(x, dt, -torch.arange(1.0, heads + 1).double() / 4, B, C, dt_softplus=True, **fixed2)

    inputs = [leaf(batch, seq, heads, 2), leaf(batch, seq, heads), *(leaf(batch, seq, groups, state) for _ in range(2))]
    assert torch.autograd.gradcheck(chunks, inputs)


@pytest.mark.parametrize("shape", [(2, 512, 6, 16, 1, 32), (1, 200, 4, 24, 2, 32), (1, 1, 4, 8, 2, 16)])
def test_gradients_of_the_chunk_scan_are_transformers_own(shape: tuple[int, ...]) -> None:
    a = arguments(*shape)
    names = ("hidden_states", "dt", "B", "C")
    given = [a[name].detach().clone().requires_grad_() for name in names]
    weights = torch.randn(shape[0], shape[1], shape[2], shape[3])
    found, own = (
        torch.autograd.grad((scan(**a | dict(zip(names, given, strict=True))) * weights).sum(), given)
        for scan in (ssd.chunk_scan, modeling_mamba2.mamba2_chunk_scan)
    )
    exact = torch.autograd.grad((recurrence(a | dict(zip(names, given, strict=True)), None)[0] * weights).sum(), given)
    for mine, other, truth in zip(found, own, exact, strict=True):
        error, allowed = ((t - truth).abs().max() for t in (mine, other))
        assert error <= 2 * allowed + 2e-6 * truth.abs().max()


def model(dtype: torch.dtype, family: str = "mamba2") -> tuple[Any, list[Mixer]]:
    torch.manual_seed(0)
    if family == "mamba1":
        config = MambaConfig(vocab_size=97, hidden_size=64, num_hidden_layers=3, state_size=16)
        lm = MambaForCausalLM(config)
    else:
        config = Mamba2Config(
            vocab_size=97, hidden_size=64, num_hidden_layers=3, state_size=16, n_groups=2, head_dim=16, num_heads=8,
            chunk_size=32, tie_word_embeddings=False,
        )  # fmt: skip
        lm = Mamba2ForCausalLM(config)
    lm = lm.eval().requires_grad_(False).to(dtype)
    return lm, mixers(lm)


def observed(lm: Any, found: list[Mixer], ids: Tensor, fast: bool) -> dict[tuple[int, str], Tensor]:
    seen: dict[tuple[int, str], Tensor] = {}

    def observe(layer: int, site: str, values: Tensor) -> None:
        seen[layer, site] = values.clone()

    device = CPU if fast else torch.device("meta")
    with torch.inference_mode(), kernels(found, device) as convolve, taps(found, observe, convolve):
        seen[len(found), "last"] = lm.backbone(ids, use_cache=False)[0]
    return seen


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("family", ["mamba1", "mamba2"])
def test_every_site_agrees_with_transformers(dtype: torch.dtype, tolerance: float, family: str) -> None:
    lm, found = model(dtype, family)
    ids = torch.randint(97, (2, 150))
    theirs, ours = (observed(lm, found, ids, fast) for fast in (False, True))
    assert ours.keys() == theirs.keys()
    for key, truth in theirs.items():
        assert ours[key].dtype is truth.dtype
        difference = (ours[key].double() - truth.double()).abs().max() / truth.double().abs().max()
        assert difference <= tolerance, (key, float(difference))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    projected = torch.randn(2, 37, 100).to(dtype)
    weight, b = torch.randn(48, 1, 4).to(dtype), torch.randn(48).to(dtype) if bias else None
    theirs = convolve(projected[..., 40:88], weight, b)
    ours = SharedConvolution()(projected[..., 40:88], weight, b)
    for mine, other in zip(ours, theirs, strict=True):
        if dtype is torch.float32:
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(mine, other)


def test_tap_and_model_share_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, found = model(torch.float32)
    calls = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *a, **k: calls.append(1) or conv2d(*a, **k))
    observed(lm, found, torch.randint(97, (1, 20)), fast=True)
    assert len(calls) == len(found)


def test_shared_convolution_does_not_mistake_one_input_for_another() -> None:
    shared, weight = SharedConvolution(), torch.randn(8, 1, 4)
    for _ in range(20):  # freed and allocated again at the same address, were it not kept
        x = torch.randn(1, 16, 8)
        torch.testing.assert_close(shared(x, weight, None)[1], convolve(x, weight, None)[1], rtol=1e-6, atol=1e-6)
        del x


def test_everything_is_put_back() -> None:
    _, found = model(torch.float32)
    before = modeling_mamba2.mamba2_chunk_scan, modeling_mamba2.causal_conv1d_fn
    with kernels(found, CPU):
        assert modeling_mamba2.mamba2_chunk_scan is ssd.chunk_scan
    with pytest.raises(ZeroDivisionError), kernels(found, CPU):
        raise ZeroDivisionError
    assert (modeling_mamba2.mamba2_chunk_scan, modeling_mamba2.causal_conv1d_fn) == before
