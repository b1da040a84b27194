"""Train the tiny byte-level Mamba-2 that ships in ``sweep/models/tiny``.

    python tools/train_tiny.py --steps N --out sweep/models/tiny

Text: the running interpreter's standard library (about 12 MB), a twentieth of its files held out.
Needs torch, transformers, and a C++ compiler for torch.compile (TORCH_COMPILE_DISABLE=1 does without one).
A run that was stopped goes on from `--state`; remove that file to start afresh.
The weights live in transformers' own Mamba2ForCausalLM. Only the *training* forward is written
here, because a chunked scan that keeps B and C per SSD group, runs its products in bfloat16 and
compiles to fused loops is several times faster on a CPU. Before anything is saved, its logits are
held against transformers'.
"""

import argparse
import copy
import hashlib
import json
import lzma
import math
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from transformers import Mamba2Config, Mamba2ForCausalLM

CHUNK = 32  # positions per block of the scan: an execution detail, results do not depend on it
DROPPED = {"test", "tests", "idle_test", "lib2to3", "site-packages"}


def stdlib_text() -> tuple[bytes, bytes]:
    """(training, held-out) text: whole files, split by the hash of their path, concatenated."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    splits: tuple[list[bytes], list[bytes]] = ([], [])
    for path in paths:
        if DROPPED.isdisjoint(path.split("/")):
            held_out = int(hashlib.sha256(path.encode()).hexdigest(), 16) % 20 == 0
            splits[held_out].append((root / path).read_bytes())
    return b"".join(splits[0]), b"".join(splits[1])


def byte_ids(text: bytes) -> Tensor:
    """ByT5's ids: 0-2 are pad, eos and unk, byte b is b + 3."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long() + 3


def tiny_config() -> Mamba2Config:
    return Mamba2Config(
        vocab_size=264, hidden_size=192, expand=2, n_groups=2, num_heads=16, head_dim=24, state_size=32,
        conv_kernel=4, num_hidden_layers=7, chunk_size=CHUNK, tie_word_embeddings=True,
        rescale_prenorm_residual=True, initializer_range=0.04,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip


def blocks(t: Tensor) -> Tensor:
    """[batch, seq, group, ...] to [batch, chunk, group, position, ...]"""
    return t.unflatten(1, (-1, CHUNK)).transpose(2, 3)


def unblock(t: Tensor) -> Tensor:
    return t.transpose(2, 3).flatten(1, 2)


def decays(log_a: Tensor) -> tuple[Tensor, ...]:
    """Decay from s to l within a chunk (0 for s > l), from the chunk's start, to its end, and over all of it."""
    total = blocks(log_a).mT.cumsum(-1)  # [b, c, g, h, l]
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    within = torch.where(causal, total[..., :, None] - total[..., None, :], -torch.inf).exp()
    last = total[..., -1:]
    return within, total.exp().mT[..., None], (last - total).exp().mT[..., None], last.exp()[:, :, :, None]


def carry(added: Tensor, over: Tensor, order: range) -> Tensor:
    """State before each chunk, when every chunk decays it by `over` and then adds `added`."""
    state, states = torch.zeros_like(added[:, 0]), [added[:, 0]] * len(order)
    for c in order:
        states[c] = state
        state = state * over[:, c] + added[:, c]
    return torch.stack(states, 1)


@torch.compile(dynamic=False)
def scan_forward(x: Tensor, dt: Tensor, log_a: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, ...]:
    B, C, heads, dtype = blocks(B).contiguous(), blocks(C).contiguous(), x.shape[-2:], x.dtype
    within, from_start, to_end, over = decays(log_a)
    skipped, D = blocks(x), D.view(len(D), 1, -1, 1)
    x = blocks(x * dt[..., None])  # [b, c, g, l, h, p]
    scores = ((C @ B.mT)[:, :, :, None] * within).to(dtype)  # [b, c, g, h, l, s]
    inside = scores @ x.transpose(3, 4).to(dtype)  # [b, c, g, h, l, p]
    added = (B.mT @ (x * to_end).flatten(-2).to(dtype)).float().unflatten(-1, heads)  # [b, c, g, n, h, p]
    states = carry(added, over, range(added.shape[1])).flatten(-2).to(dtype)
    outside = C @ states  # [b, c, g, l, hp]
    y = inside.transpose(3, 4) + from_start * outside.unflatten(-1, heads) + D * skipped
    return unblock(y).to(dtype).contiguous(), states, outside


@torch.compile(dynamic=False)
def scan_backward(
    dy: Tensor, x: Tensor, dt: Tensor, log_a: Tensor, B: Tensor, C: Tensor, D: Tensor, states: Tensor, outside: Tensor
) -> tuple[Tensor, ...]:
    B, C, heads, dtype = blocks(B).contiguous(), blocks(C).contiguous(), x.shape[-2:], x.dtype
    within, from_start, to_end, over = decays(log_a)
    skipped, dskip = x, dy
    x, dy = blocks(x * dt[..., None]), blocks(dy)  # [b, c, g, l, h, p]
    x_end, dy_start = x * to_end, dy * from_start
    x_head, dy_head = (t.transpose(3, 4).to(dtype).contiguous() for t in (x, dy))  # [b, c, g, h, l, p]
    x_flat, dy_flat = (t.flatten(-2).to(dtype).contiguous() for t in (x_end, dy_start))  # [b, c, g, l, hp]

    read = (C.mT @ dy_flat).float().unflatten(-1, heads)  # gradient of the states, as C reads them
    carried = carry(read, over, range(read.shape[1])[::-1])  # gradient of what each chunk adds to the state
    carried_flat = carried.flatten(-2).to(dtype)
    dx_end = (B @ carried_flat).unflatten(-1, heads)

    plain = C @ B.mT  # [b, c, g, l, s]
    dscores = (dy_head @ x_head.mT) * within  # [b, c, g, h, l, s]
    dplain = dscores.sum(3).to(dtype)
    dC = dplain @ B + dy_flat @ states.mT
    dB = dplain.mT @ C + x_flat @ carried_flat.mT
    dxdt = ((plain[:, :, :, None] * within).to(dtype).mT @ dy_head).transpose(3, 4) + to_end * dx_end

    dtotal = dscores * plain[:, :, :, None]  # gradient of the running sum of log_a, first from within a chunk
    to_last = (x_end * dx_end).sum(-1)  # [b, c, g, l, h]
    dtotal = (dtotal.sum(-1) - dtotal.sum(-2)).mT + (dy_start * outside.unflatten(-1, heads)).sum(-1) - to_last
    last = to_last.sum(3) + (states.unflatten(-1, heads) * carried * over).sum((3, 5))  # [b, c, g, h]
    dlog_a = dtotal.flip(3).cumsum(3).flip(3) + last[:, :, :, None]
    dxdt, dlog_a, dB, dC = (unblock(t).contiguous() for t in (dxdt, dlog_a, dB, dC))
    dx = (dxdt * dt[..., None] + dskip * D[..., None]).to(dtype)
    return dx, (dxdt * skipped).sum(-1), dlog_a, dB, dC, (dskip * skipped).sum(-1).sum((0, 1))


class Scan(torch.autograd.Function):
    """State-space dual form (Mamba-2, arXiv 2405.21060, section 6) in chunks of CHUNK positions:
    y_t = sum over s <= t of exp(log_a_{s+1} + .. + log_a_t) (C_t . B_s) dt_s x_s, + D x_t.

    x [batch, seq, group, head, dim]; dt and log_a [batch, seq, group, head] float32; B and C [batch, seq,
    group, state]. Products run in x's dtype, decays in float32. Written out backward, and apart from the
    rest of the block, because the loops that torch.compile fuses across this border are not vectorised.
    Letters: b batch, c chunk, g group, h head, l and s positions in a chunk, p dim, n state.
    """

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> Tensor:
        y, *kept = scan_forward(*inputs)
        ctx.save_for_backward(*inputs, *kept)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        return scan_backward(dy, *ctx.saved_tensors)


@torch.compile(dynamic=False)
def project(hidden: Tensor, norm: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm and linear layer, the norm's weight folded into the matrix (which saves summing its gradient)."""
    normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps)
    return normed.to(dtype) @ (weight * norm).to(dtype).T


@torch.compile(dynamic=False)
def convolve(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution. x [batch, seq, channel], taps [kernel, channel]."""
    padded = F.pad(x, (0, 0, len(taps) - 1, 0))
    return (sum(padded[:, k : k + x.shape[1]] * taps[k] for k in range(len(taps))) + bias).to(x.dtype)


@torch.compile(dynamic=False)
def scan_inputs(xBC: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, sizes: list[int], groups: int) -> list[Tensor]:
    parts = F.silu(xBC.float()).to(xBC.dtype).split(sizes, -1)
    x, B, C = (part.unflatten(-1, (groups, -1)).contiguous() for part in parts)
    dt = F.softplus(dt + dt_bias)  # the config leaves dt unlimited
    dt, log_a = (t.unflatten(-1, (groups, -1)) for t in (dt, dt * -A_log.exp()))
    return [x.unflatten(-1, (dt.shape[-1], -1)), dt, log_a, B, C]


@torch.compile(dynamic=False)
def gated_project(y: Tensor, gate: Tensor, norm: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    gated = (y.flatten(2) * F.silu(gate.float())).unflatten(-1, (groups, -1))
    normed = (gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)).flatten(2)
    return (normed.to(y.dtype) @ (weight * norm).to(y.dtype).T).float()


def logits_of(model: Mamba2ForCausalLM, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits [batch, seq, vocab], float32; seq a multiple of CHUNK. Products in `dtype`."""
    body, groups, eps = model.backbone, model.config.n_groups, model.config.layer_norm_epsilon
    hidden = F.embedding(ids, body.embeddings.weight)
    for layer in body.layers:
        mixer, conv = layer.mixer, layer.mixer.conv1d
        projected = project(hidden, layer.norm.weight, mixer.in_proj.weight, eps, dtype)
        gate, xBC, dt = projected.split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], -1)
        xBC = convolve(xBC, conv.weight[:, 0].T.contiguous(), conv.bias)
        sizes = [mixer.intermediate_size] + [groups * mixer.ssm_state_size] * 2
        y = Scan.apply(*scan_inputs(xBC, dt, mixer.dt_bias, mixer.A_log, sizes, groups), mixer.D.view(groups, -1))
        hidden = hidden + gated_project(y, gate, mixer.norm.weight, mixer.out_proj.weight, groups, eps)
    return project(hidden, body.norm_f.weight, body.embeddings.weight, eps, dtype).float()


def held_out_bpb(model: Mamba2ForCausalLM, ids: Tensor, window: int = 2048) -> float:
    """Bits per byte over all of `ids`, in consecutive windows of `window` + 1 ids that share one id.

    Every byte but the very first is predicted once, from what precedes it in its own window."""
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, window):
            piece = ids[start : start + window + 1]
            nats += F.cross_entropy(model(piece[None, :-1]).logits[0], piece[1:], reduction="sum").item()
    return nats / math.log(2) / (len(ids) - 1)


def train(rank: int, args: argparse.Namespace, rendezvous: str) -> None:
    """One of `args.workers` processes: its share of every batch, gradients averaged, the same step in each."""
    torch.set_num_threads(args.threads)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=args.workers)
    torch.manual_seed(args.seed)
    model = Mamba2ForCausalLM(tiny_config())
    parameters = list(model.parameters())
    matrices = [p for name, p in model.named_parameters() if "_proj.weight" in name]
    rest = [p for name, p in model.named_parameters() if "_proj.weight" not in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.defaults["lr"] for optimizer in optimizers]
    parts, first, seconds, running = [model, *optimizers], 0, 0.0, 0.0
    if args.state.exists():
        first, seconds, running, states = torch.load(args.state)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    dtype = torch.float32 if args.fp32 else torch.bfloat16
    ids, offsets = byte_ids(stdlib_text()[0]), torch.arange(args.length + 1)
    began = time.time() - seconds
    for step in range(first, args.steps):
        warm_up, decay = (step + 1) / 100, (args.steps - step) / (args.steps * args.decay)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(1.0, warm_up, decay)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        starts = torch.randint(len(ids) - args.length, (args.batch, 1), generator=generator)
        window = ids[starts[rank :: args.workers] + offsets]  # [batch / workers, length + 1]
        logits = logits_of(model, window[:, :-1], dtype)
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        mean = torch.cat([p.grad.flatten() for p in parameters] + [loss.detach()[None]]) / args.workers
        dist.all_reduce(mean)
        for p, grad in zip(parameters, mean[:-1].split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running += max(0.02, 1 / (step + 1)) * (mean[-1].item() / math.log(2) - running)
        seconds, done = time.time() - began, step + 1
        if rank == 0 and done % args.log_every == 0:
            tokens = done * args.batch * args.length
            print(f"step {done} tokens {tokens} bpb {running:.4f} seconds {seconds:.0f}", flush=True)
        if rank == 0 and (done % args.save_every == 0 or done == args.steps):
            torch.save((done, seconds, running, [part.state_dict() for part in parts]), args.state)
    dist.destroy_process_group()


def save(model: Mamba2ForCausalLM, out: Path) -> Mamba2ForCausalLM:
    """Write config and bfloat16 weights, and return them as transformers loads them, in float32."""
    probe = torch.randint(3, 259, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(logits_of(model, probe, torch.float32), model(probe).logits, rtol=1e-4, atol=1e-4)
    stored = Mamba2ForCausalLM(copy.deepcopy(model.config))
    stored.load_state_dict(model.state_dict())
    stored.config.rescale_prenorm_residual = False  # it was, before training: from_pretrained would do it once more
    stored.to(torch.bfloat16).save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    return Mamba2ForCausalLM.from_pretrained(out, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=6, help="windows per step, over all workers")
    parser.add_argument("--length", type=int, default=1024, help="bytes per window, a multiple of 32")
    parser.add_argument("--muon-lr", type=float, default=0.01, help="peak, for the projections")
    parser.add_argument("--adam-lr", type=float, default=0.004, help="peak, for everything else")
    parser.add_argument("--decay", type=float, default=0.5, help="fraction of the steps over which the rates fall to 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that share a batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--state", type=Path, default=Path("runs/train_tiny.pt"), help="resumed from if it exists")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--fp32", action="store_true", help="products in float32")
    args = parser.parse_args()
    args.state.parent.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (args, f"file://{folder}/rendezvous"), args.workers)
    steps, seconds, _, (weights, *_) = torch.load(args.state)
    model = Mamba2ForCausalLM(tiny_config())
    model.load_state_dict(weights)
    held_out = stdlib_text()[1]
    result = {
        "steps": steps,
        "tokens": steps * args.batch * args.length,
        "seconds": round(seconds),
        "held_out_bpb": held_out_bpb(save(model, args.out), byte_ids(held_out)),
        "xz_bpb": 8 * len(lzma.compress(held_out, preset=9)) / len(held_out),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
