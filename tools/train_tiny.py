"""Train the tiny byte-level Mamba-2 that ships in ``sweep/models/tiny``.

    python tools/train_tiny.py --steps N --out sweep/models/tiny

Text: the running interpreter's standard library (about 12 MB), a twentieth of its files held out.
Needs torch, transformers, and a C++ compiler for torch.compile; `--no-compile` does without one.
The weights live in transformers' own Mamba2ForCausalLM. Only the *training* forward is written
here, because a chunked scan that keeps B and C per SSD group, runs its products in bfloat16 and
compiles to fused loops is several times faster on a CPU. Before anything is saved, its logits are
held against transformers'.
"""

import argparse
import hashlib
import json
import lzma
import math
import sysconfig
import time
from pathlib import Path

import torch
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


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class Scan(torch.autograd.Function):
    """State-space dual form (Mamba-2, arXiv 2405.21060, section 6): y_t = sum_{s<=t} a_{s+1}..a_t (C_t.B_s) x_s.

    apply(x, log_a, B, C, dtype): x [batch, seq, group, head, dim], log_a [batch, seq, group, head], B and C
    [batch, seq, group, state]; products in `dtype`, decays in float32. The backward pass is written out because
    the gradient of the running sum of log_a is simply y.dy - x.dx, which saves most of what autograd would do.
    Inside, tensors are [batch, chunk, group, ...] with l, s positions, h heads, p dim, n state.
    """

    @staticmethod
    def blocks(t: Tensor) -> Tensor:
        """[batch, seq, group, ...] to [batch, chunk, group, l, ...]"""
        return t.unflatten(1, (-1, CHUNK)).transpose(2, 3)

    @staticmethod
    def decays(log_a: Tensor) -> tuple[Tensor, ...]:
        """From s to l within a chunk, 0 for s > l; from the chunk's start; to its end; over all of it."""
        total = Scan.blocks(log_a).mT.cumsum(-1)  # [b, c, g, h, l]
        causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
        within = torch.where(causal, total[..., :, None] - total[..., None, :], -torch.inf).exp()
        last = total[..., -1:]
        return within, total.exp().mT[..., None], (last - total).exp().mT[..., None], last.exp()[:, :, :, None]

    @staticmethod
    def forward(ctx, x: Tensor, log_a: Tensor, B: Tensor, C: Tensor, dtype: torch.dtype) -> Tensor:
        x, B, C = (Scan.blocks(t).to(dtype) for t in (x, B, C))
        within, from_start, to_end, over = Scan.decays(log_a)
        inside = ((C @ B.mT)[:, :, :, None] * within).to(dtype) @ x.transpose(3, 4)  # [b, c, g, h, l, p]
        added = (B.mT @ (x * to_end).flatten(-2).to(dtype)).float().unflatten(-1, x.shape[-2:])  # [b, c, g, n, h, p]
        state, states = torch.zeros_like(added[:, 0]), []
        for c in range(added.shape[1]):
            states.append(state.to(dtype))
            state = state * over[:, c] + added[:, c]
        states = torch.stack(states, 1).flatten(-2)  # at each chunk's start: [b, c, g, n, hp]
        y = inside.transpose(3, 4) + from_start * (C @ states).unflatten(-1, x.shape[-2:])
        y = y.transpose(2, 3).flatten(1, 2)
        ctx.save_for_backward(x, log_a, B, C, states, y)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, log_a, B, C, states, y = ctx.saved_tensors
        dtype, heads = x.dtype, x.shape[-2:]
        within, from_start, to_end, over = Scan.decays(log_a)
        out = Scan.blocks(dy)
        outside = (out * from_start).flatten(-2).to(dtype)  # [b, c, g, l, hp]
        out = out.transpose(3, 4).to(dtype)  # [b, c, g, h, l, p]
        read = (C.mT @ outside).float().unflatten(-1, heads)  # gradient of the states, as read by C
        carry, carries = torch.zeros_like(read[:, 0]), []
        for c in reversed(range(read.shape[1])):
            carries.append(carry.to(dtype))
            carry = carry * over[:, c] + read[:, c]
        carries = torch.stack(carries[::-1], 1).flatten(-2)  # gradient of what each chunk added

        dscores = ((out @ x.transpose(3, 4).mT) * within).sum(3).to(dtype)  # [b, c, g, l, s]
        dC = dscores @ B + outside @ states.mT
        dB = dscores.mT @ C + (x * to_end).flatten(-2).to(dtype) @ carries.mT
        scores = ((C @ B.mT)[:, :, :, None] * within).to(dtype)
        dx = (scores.mT @ out).transpose(3, 4) + to_end * (B @ carries).unflatten(-1, heads)
        dx, dB, dC = (t.transpose(2, 3).flatten(1, 2).float() for t in (dx, dB, dC))
        dtotal = (y * dy).sum(-1) - (x.transpose(2, 3).flatten(1, 2) * dx).sum(-1)
        return dx, dtotal.flip(1).cumsum(1).flip(1), dB, dC, None


def block_forward(
    hidden: Tensor, p: dict[str, Tensor], taps: Tensor, groups: int, eps: float, dtype: torch.dtype
) -> Tensor:
    """One residual block. hidden [batch, seq, d_model] float32; p: its parameters by their names;
    taps: the conv1d weight as [kernel, channel] (contiguous, or its loops are not vectorised)."""
    batch, seq, _ = hidden.shape
    d_inner, kernel = p["mixer.norm.weight"].numel(), len(taps)
    heads, conv_dim = p["mixer.D"].numel(), p["mixer.conv1d.bias"].numel()
    projected = rms_norm(hidden, p["norm.weight"], eps).to(dtype) @ p["mixer.in_proj.weight"].to(dtype).T
    gate, xBC, dt = projected.split([d_inner, conv_dim, heads], -1)

    padded = F.pad(xBC, (0, 0, kernel - 1, 0))
    xBC = F.silu(sum(padded[:, k : k + seq] * taps[k] for k in range(kernel)) + p["mixer.conv1d.bias"])
    x, B, C = xBC.split([d_inner, (conv_dim - d_inner) // 2, (conv_dim - d_inner) // 2], -1)

    by_group = (batch, seq, groups)
    x = x.reshape(*by_group, heads // groups, -1)
    dt = F.softplus(dt + p["mixer.dt_bias"]).view(*by_group, -1)  # the config leaves dt unlimited
    A = -p["mixer.A_log"].exp().view(groups, -1)
    y = Scan.apply(x * dt[..., None], dt * A, B.reshape(*by_group, -1), C.reshape(*by_group, -1), dtype)
    y = (y + p["mixer.D"].view(groups, -1, 1) * x).flatten(-2) * F.silu(gate.float()).view(*by_group, -1)
    y = rms_norm(y, p["mixer.norm.weight"].view(groups, -1), eps).view(batch, seq, -1).to(dtype)
    return hidden + (y @ p["mixer.out_proj.weight"].to(dtype).T).float()


def logits_of(model: Mamba2ForCausalLM, ids: Tensor, dtype: torch.dtype, block=block_forward) -> Tensor:
    """Logits [batch, seq, vocab], float32; seq a multiple of CHUNK."""
    body, config = model.backbone, model.config
    hidden = F.embedding(ids, body.embeddings.weight)
    for layer in body.layers:
        taps = layer.mixer.conv1d.weight[:, 0].T.contiguous()
        parameters = dict(layer.named_parameters())
        hidden = block(hidden, parameters, taps, config.n_groups, config.layer_norm_epsilon, dtype)
    hidden = rms_norm(hidden, body.norm_f.weight, config.layer_norm_epsilon).to(dtype)
    return (hidden @ body.embeddings.weight.to(dtype).T).float()


def held_out_bpb(model: Mamba2ForCausalLM, ids: Tensor, window: int = 2048) -> float:
    """Bits per byte over all of `ids`, in consecutive windows of `window` + 1 ids that share one id.

    Every byte but the very first is predicted once, from what precedes it in its own window."""
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, window):
            piece = ids[start : start + window + 1]
            nats += F.cross_entropy(model(piece[None, :-1]).logits[0], piece[1:], reduction="sum").item()
    return nats / math.log(2) / (len(ids) - 1)


def train(model: Mamba2ForCausalLM, ids: Tensor, args: argparse.Namespace) -> None:
    matrices = [p for name, p in model.named_parameters() if "_proj.weight" in name]
    rest = [p for name, p in model.named_parameters() if "_proj.weight" not in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.defaults["lr"] for optimizer in optimizers]
    dtype = torch.float32 if args.fp32 else torch.bfloat16
    block = torch.compile(block_forward) if args.compile else block_forward
    generator = torch.Generator().manual_seed(args.seed)
    offsets = torch.arange(args.length + 1)
    began, running = time.time(), None
    for step in range(args.steps):
        warm_up, decay = (step + 1) / 100, (args.steps - step) / (args.steps * 0.6)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(1.0, warm_up, decay)
        starts = torch.randint(len(ids) - args.length, (args.batch, 1), generator=generator)
        window = ids[starts + offsets]  # [batch, length + 1]
        logits = logits_of(model, window[:, :-1], dtype, block)
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        bits = loss.item() / math.log(2)
        running = bits if running is None else running + max(0.02, 1 / (step + 1)) * (bits - running)
        if (step + 1) % args.log_every == 0:
            tokens = (step + 1) * args.batch * args.length
            rate = tokens / (time.time() - began)
            print(f"step {step + 1} tokens {tokens} bpb {running:.4f} tok/s {rate:.0f}", flush=True)
        if (step + 1) % args.save_every == 0:
            save(model, args.out)


def save(model: Mamba2ForCausalLM, out: Path) -> Mamba2ForCausalLM:
    """Write config and bfloat16 weights, and return them as transformers loads them, in float32."""
    probe = torch.randint(3, 259, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(model, probe, torch.float32), model(probe).logits, rtol=1e-4, atol=1e-4)
    stored = Mamba2ForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored.to(torch.bfloat16).save_pretrained(out)
    (out / "generation_config.json").unlink(missing_ok=True)
    return Mamba2ForCausalLM.from_pretrained(out, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024, help="bytes per window, a multiple of 64")
    parser.add_argument("--muon-lr", type=float, default=0.01, help="peak, for the projections")
    parser.add_argument("--adam-lr", type=float, default=0.004, help="peak, for everything else")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument("--fp32", action="store_true", help="products in float32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    text, held_out = stdlib_text()
    model = Mamba2ForCausalLM(tiny_config())
    print(f"{len(text)} bytes to train on, {len(held_out)} held out, {model.num_parameters()} parameters")
    began = time.time()
    train(model, byte_ids(text), args)
    result = {
        "steps": args.steps,
        "tokens": args.steps * args.batch * args.length,
        "seconds": round(time.time() - began),
        "held_out_bpb": held_out_bpb(save(model, args.out), byte_ids(held_out)),
        "xz_bpb": 8 * len(lzma.compress(held_out, preset=9)) / len(held_out),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
