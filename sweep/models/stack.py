"""Networks in mamba_ssm's words that transformers has no class for, as state-spaces/mamba2attn-2.7b is one.

Attention instead of a mixer in some layers, an MLP after each, LayerNorm for RMSNorm, and what mamba_ssm's Mamba2 can
do beyond its defaults (github state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py, modules/mamba2.py, mha.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from sweep.core.errors import UsageError
from sweep.models.mamba_ssm_config import to_mamba_ssm, to_transformers

VERSION = 1  # of what `blocks` computes; to be raised with any change of rounding

EPSILON = 1e-5  # of all norms of `blocks`, as in mamba_ssm
# Settings beyond transformers, with the value that its own models stand for.
_NETWORK: dict[str, Any] = {"attn_layer_idx": [], "d_intermediate": 0, "rms_norm": True}
_MAMBA2: dict[str, Any] = {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}
# What mamba_ssm's MHA takes for granted; it has no default for num_heads.
_ATTENTION: dict[str, Any] = {
    "num_heads": None,
    "num_heads_kv": None,
    "head_dim": None,
    "mlp_dim": 0,
    "qkv_proj_bias": True,
    "out_proj_bias": True,
    "softmax_scale": None,
    "causal": False,
    "d_conv": 0,
    "rotary_emb_dim": 0,
    "rotary_emb_base": 10000.0,
    "rotary_emb_interleaved": False,
}


@dataclass(frozen=True, eq=False)
class Stack:
    """settings: all that mamba_ssm's config.json can say, no default left out. common: a transformers configuration
    of the same network as far as transformers has words for it."""

    settings: dict[str, Any]
    common: Any

    model_type: ClassVar[str] = "mamba_ssm"

    @property
    def num_hidden_layers(self) -> int:
        return int(self.settings["n_layer"])

    @property
    def tie_word_embeddings(self) -> bool:
        return bool(self.settings["tie_embeddings"])

    @property
    def rotary(self) -> bool:
        """True if any layer rotates its queries and keys."""
        return bool(self.settings["attn_layer_idx"]) and self.settings["attn_cfg"]["rotary_emb_dim"] > 0


def needed(settings: dict[str, Any]) -> bool:
    """True for settings of config.json beyond transformers' own models. Reads nothing but the settings."""
    network, ssm, _ = _taken_apart(settings)
    return "model_type" not in settings and bool(network | ssm)


def shape(settings: dict[str, Any]) -> Any:
    """The configuration of a network that mamba_ssm's config.json describes: of transformers, or a Stack.

    Raises UsageError for what cannot be built."""
    network, ssm, rest = _taken_apart(settings)
    if not network and not ssm:
        return to_transformers(rest)
    _check("", network, {"rms_norm": bool, "d_intermediate": int, "attn_layer_idx": list})
    _check("ssm_cfg.", ssm, dict.fromkeys(_MAMBA2, bool) | {"d_ssm": int})
    if "d_ssm" in ssm:  # transformers checks that the heads make up d_inner
        ssm["headdim"] = rest["ssm_cfg"].pop("headdim", 64)
        rest["ssm_cfg"]["headdim"] = 1
    common = to_transformers(rest)
    if common.layer_norm_epsilon != EPSILON:
        raise UsageError(
            f"config.json: norm_epsilon={common.layer_norm_epsilon:g} is not supported beside "
            f"{', '.join(sorted({**network, **ssm}))}; allowed: {EPSILON:g}"
        )
    words = to_mamba_ssm(common) | _NETWORK | network
    words["ssm_cfg"] |= (_MAMBA2 if words["ssm_cfg"]["layer"] == "Mamba2" else {}) | ssm
    if "d_ssm" in ssm:
        _check_d_ssm(words["ssm_cfg"], int(words["ssm_cfg"]["expand"] * words["d_model"]))
    words["attn_cfg"] = _attention(settings, words["d_model"]) if words["attn_layer_idx"] else {}
    return Stack(words, common)


def _taken_apart(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Settings of the network and of its Mamba2 that are beyond transformers; then all others."""
    ssm = dict(settings.get("ssm_cfg") or {})
    network = {key: settings[key] for key in _NETWORK if settings.get(key) is not None}
    own = {key: ssm.pop(key) for key in _MAMBA2 if key in ssm} if ssm.get("layer") == "Mamba2" else {}
    if own.get("d_ssm") == ssm.get("expand", 2) * settings.get("d_model", 0):
        del own["d_ssm"]
    rest = {key: value for key, value in settings.items() if key not in (*_NETWORK, "attn_cfg")}
    return _beyond(network, _NETWORK), _beyond(own, _MAMBA2), rest | {"ssm_cfg": ssm}


def _beyond(given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value != usual[key]}


def _check(prefix: str, given: dict[str, Any], kinds: dict[str, type[Any]]) -> None:
    for key, value in given.items():
        kind = kinds[key]
        good = type(value) is kind
        if good and kind is int:
            good = int(value) >= 0
        elif good and kind is list:
            good = all(type(layer) is int for layer in value)
        if not good:
            allowed = {bool: "true, false", int: "a whole number, not negative", list: "a list of layers"}[kind]
            raise UsageError(f"config.json: {prefix}{key}={value}; allowed: {allowed}")


def _check_d_ssm(ssm: dict[str, Any], d_inner: int) -> None:
    d_ssm, headdim, groups = ssm["d_ssm"], ssm["headdim"], ssm["ngroups"]
    if not 0 < d_ssm <= d_inner or d_ssm % headdim or d_ssm // headdim % groups:
        raise UsageError(
            f"config.json: ssm_cfg.d_ssm={d_ssm}; allowed: up to expand x d_model = {d_inner}, whole heads of "
            f"headdim={headdim}, as many in each of ngroups={groups}"
        )


def _attention(settings: dict[str, Any], d_model: int) -> dict[str, Any]:
    """Arguments of mamba_ssm's MHA, all defaults filled in."""
    given = dict(settings.get("attn_cfg") or {})
    if unknown := sorted(given.keys() - _ATTENTION.keys()):
        raise UsageError(f"config.json: unknown attn_cfg settings: {', '.join(unknown)}")
    words = _ATTENTION | given
    heads = words["num_heads"]
    if type(heads) is not int or heads < 1:
        raise UsageError(f"config.json: attn_cfg.num_heads={heads}; allowed: a whole number of heads")
    words["num_heads_kv"] = words["num_heads_kv"] or heads
    if words["head_dim"] is None:
        if d_model % heads:
            raise UsageError(
                f"config.json: attn_cfg.num_heads={heads} does not divide d_model={d_model}: give head_dim"
            )
        words["head_dim"] = d_model // heads
    if heads % words["num_heads_kv"]:
        raise UsageError(f"config.json: attn_cfg.num_heads_kv={words['num_heads_kv']} does not divide {heads} heads")
    if words["rotary_emb_dim"] % 2 or words["rotary_emb_dim"] > words["head_dim"]:
        raise UsageError(
            f"config.json: attn_cfg.rotary_emb_dim={words['rotary_emb_dim']}; allowed: even, up to {words['head_dim']}"
        )
    return words
