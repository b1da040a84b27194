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

CHUNK = 64  # positions per block of the scan: an execution detail, results do not depend on it
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


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, dtype: torch.dtype) -> Tensor:
    """State-space dual form (Mamba-2, arXiv 2405.21060, section 6), b and c kept per SSD group.

    x [batch, seq, group, head, dim], dt [batch, seq, group, head], A [group, head],
    B and C [batch, seq, group, state]; products in `dtype`, decays in float32. Returns x's shape.
    """
    batch, seq, groups, heads, dim = x.shape
    block = (batch, seq // CHUNK, CHUNK)
    x = (x * dt[..., None]).view(*block, groups, heads, dim)
    B, C = (t.view(*block, groups, -1).transpose(2, 3).to(dtype) for t in (B, C))  # [b, c, g, l, n]
    log_decay = (dt * A).view(*block, groups, heads).permute(0, 1, 3, 4, 2).cumsum(-1)  # [b, c, g, h, l]

    # Within a block: attention-like, one score matrix per group, decayed per head.
    future = torch.ones(CHUNK, CHUNK, dtype=torch.bool).triu(1)
    decay = (log_decay[..., :, None] - log_decay[..., None, :]).masked_fill(future, -torch.inf).exp()
    scores = ((C @ B.mT)[:, :, :, None] * decay).to(dtype)  # [b, c, g, h, l, s]
    inside = scores @ x.permute(0, 1, 3, 4, 2, 5).to(dtype)  # [b, c, g, h, l, p]

    # Across blocks: what each block adds to the state, carried on, read out by C.
    to_end = (log_decay[..., -1:] - log_decay).exp().permute(0, 1, 2, 4, 3)  # [b, c, g, l, h]
    added = B.mT @ (x.transpose(2, 3) * to_end[..., None]).flatten(-2).to(dtype)  # [b, c, g, n, hp]
    added = added.float().unflatten(-1, (heads, dim))
    carried = log_decay[..., -1].exp()[:, :, :, None, :, None]
    state, states = torch.zeros_like(added[:, 0]), []
    for c in range(block[1]):
        states.append(state)
        state = state * carried[:, c] + added[:, c]
    before = (C @ torch.stack(states, 1).flatten(-2).to(dtype)).unflatten(-1, (heads, dim))  # [b, c, g, l, h, p]
    before = before * log_decay.exp().permute(0, 1, 2, 4, 3)[..., None]
    return (inside.transpose(3, 4) + before).transpose(2, 3).reshape(batch, seq, groups, heads, dim)


def block_forward(hidden: Tensor, p: dict[str, Tensor], groups: int, eps: float, dtype: torch.dtype) -> Tensor:
    """One residual block. hidden [batch, seq, d_model] float32; p: its parameters by their names."""
    batch, seq, _ = hidden.shape
    d_inner, kernel = p["mixer.norm.weight"].numel(), p["mixer.conv1d.weight"].shape[-1]
    heads, conv_dim = p["mixer.D"].numel(), p["mixer.conv1d.bias"].numel()
    projected = rms_norm(hidden, p["norm.weight"], eps).to(dtype) @ p["mixer.in_proj.weight"].to(dtype).T
    gate, xBC, dt = projected.split([d_inner, conv_dim, heads], -1)

    taps = p["mixer.conv1d.weight"][:, 0].T  # [kernel, channel]
    padded = F.pad(xBC, (0, 0, kernel - 1, 0))
    xBC = F.silu(sum(padded[:, k : k + seq] * taps[k] for k in range(kernel)) + p["mixer.conv1d.bias"])
    x, B, C = xBC.split([d_inner, (conv_dim - d_inner) // 2, (conv_dim - d_inner) // 2], -1)

    by_group = (batch, seq, groups)
    x = x.reshape(*by_group, heads // groups, -1)
    dt = F.softplus(dt + p["mixer.dt_bias"]).view(*by_group, -1)  # the config leaves dt unlimited
    A = -p["mixer.A_log"].exp().view(groups, -1)
    y = ssd(x, dt, A, B.reshape(*by_group, -1), C.reshape(*by_group, -1), dtype)
    y = (y + p["mixer.D"].view(groups, -1, 1) * x).flatten(-2) * F.silu(gate.float()).view(*by_group, -1)
    y = rms_norm(y, p["mixer.norm.weight"].view(groups, -1), eps).view(batch, seq, -1).to(dtype)
    return hidden + (y @ p["mixer.out_proj.weight"].to(dtype).T).float()


def logits_of(model: Mamba2ForCausalLM, ids: Tensor, dtype: torch.dtype, block=block_forward) -> Tensor:
    """Logits [batch, seq, vocab], float32; seq a multiple of CHUNK."""
    body, config = model.backbone, model.config
    hidden = F.embedding(ids, body.embeddings.weight)
    for layer in body.layers:
        hidden = block(hidden, dict(layer.named_parameters()), config.n_groups, config.layer_norm_epsilon, dtype)
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
    probe = torch.randint(3, 259, (2, 4 * CHUNK), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(model, probe, torch.float32), model(probe).logits, rtol=1e-4, atol=1e-4)
    stored = Mamba2ForCausalLM(model.config)
    stored.load_state_dict(model.state_dict())
    stored.generation_config = None
    stored.to(torch.bfloat16).save_pretrained(out)
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
