"""config.json in transformers' words: what of it is read, what changes nothing, and what is refused by name.

The one place that knows: a key that is neither declared by transformers' class nor listed here is refused, as it
may change activations that nobody would see changed. (mamba_ssm's words are in `geometry`.)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sweep.core.errors import UsageError, first_line
from sweep.models.families import FAMILIES, supported

# Other libraries' words for what a class of transformers calls by its own.
_EPSILON = (
    *("norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "layernorm_eps", "layernorm_epsilon"),
    *("rms_norm_eps", "rms_norm_epsilon", "rms_eps", "rmsnorm_eps"),
)
_MAMBA_SSM = {"d_model": "hidden_size", "n_layer": "num_hidden_layers", "tie_embeddings": "tie_word_embeddings"}
_ROPE = ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor")
# Keys that no class reads, with the values that say what is computed all the same.
_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_function": ("silu", "swish"),
    "attn": (None,),
    "attn_layer_idx": ([],),
    "attn_layer_indices": ([],),
    "attn_rotary_emb": (64,),  # of Bamba, half of its 128
    "conv_act": ("silu", "swish"),
    "d_intermediate": (0,),
    "fused_add_norm": (True, False),
    "mamba_inner_layernorms": (True,),
    "mamba_use_mlp": (True,),
    "normalization_function": ("rmsnorm",),
    "rms_norm": (True,),
    "ssm_cfg": ({},),
    "gated_linear_unit": (True,),
}
# How a network was made, is trained, generates, or is laid out in memory: not what a forward pass computes. What
# changes the shapes of weights is here, too: weights that do not fit are refused by name.
_IMMATERIAL = re.compile(
    r"_.*|.*(dropout|pdrop)(_prob)?|.*_token_id|.*_loss_coef(ficient)?|init(ializer)?_.*|fuse_.*|unsloth.*|time_step_"
    r"(min|max|floor|rank|scale|init_scheme)|(torch_)?dtype|architectures|auto_map|transformers.*|use_(cache|l2warp)|"
    r"max_position_embeddings|n_ctx|n_positions|(max_)?(seq(uence)?_len(gth)?)|model_max_length|pad_vocab_size_multiple|"
    r"gradient_checkpointing|pretraining_tp|use_(mamba_kernels|mambapy|mem_eff_path|flash_attn|associative_scan)|"
    r"rescale_prenorm_residual|(mamba_)?chunk_size|(num_)?logits_to_keep|num_logits_to_keep|output_router_logits|"
    r"calc_logits_for_entire_prompt|attn_cfg|attn_implementation|output_(attentions|scores)|torchscript|"
    r"pruned_heads|use_bfloat16|task_specific_params|finetuning_task|tokenizer_class|name|prefix|id2label|label2id|"
    r"num_labels|tie_encoder_decoder|is_decoder|cross_attention_hidden_size|add_cross_attention|problem_type|"
    r"do_sample|early_stopping|(max|min)(_new)?_(length|tokens)|temperature|top_[kp]|typical_p|num_beam.*|"
    r"num_return_sequences|.*_penalty|no_repeat_ngram_size|.*bad_words_ids|forced_.*|remove_invalid_values|"
    r"exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens|return_dict.*|"
    # shapes: Zamba's, Falcon-H1's, Nemotron-H's
    r"ffn_hidden_size|lora_rank|ft_lora|use_shared_(attention|mlp|block)_lora|conv_dimension|mlp_expansion_factor|"
    r"attention_head_dim|kv_channels|num_query_groups|layer_types|layers_block_type|d_inner|vocab_pad.*"
)


def configuration(path: Path, settings: dict[str, Any]) -> Any:
    """transformers' configuration for the config.json of a directory, read without any code but its own.

    Raises UsageError, by name, for settings that its network would not heed."""
    import transformers

    kind = transformers.CONFIG_MAPPING[settings["model_type"]]
    file = path / "config.json"
    try:
        declared = set(kind.__dataclass_fields__) | set(vars(kind())) | set(kind.attribute_map)
    except Exception:  # a class that cannot be made of nothing: none that holds a Mamba mixer
        declared = set(settings)
    family = FAMILIES.get(settings["model_type"])
    declared |= {"head_dim", *(family.reads if family else ())}  # head_dim: of attention, wherever there is any
    read = _translated(file, settings, declared) if family else {}
    try:
        config = kind.from_pretrained(path)
        for key, value in read.items():
            setattr(config, key, value)
    except Exception as error:
        raise UsageError(
            f"{path}: transformers {transformers.__version__} cannot read "
            f"model_type={settings['model_type']} ({first_line(error)}); supported are {supported()}"
        ) from error
    _check_activation(file, config)
    return config


def _translated(file: Path, settings: dict[str, Any], declared: set[str]) -> dict[str, Any]:
    """Values under transformers' names that config.json gives under other ones. Raises UsageError for those that
    contradict each other, and for the keys that nothing reads."""
    kind = settings["model_type"]
    read: dict[str, Any] = {}
    epsilon = next((own for own in ("layer_norm_epsilon", "rms_norm_eps") if own in declared), None)
    same: dict[str, str] = {word: epsilon for word in _EPSILON if epsilon and word not in declared}
    same |= {word: own for word, own in _MAMBA_SSM.items() if word not in declared}
    strangers = []
    for key, value in settings.items():
        if key in declared or value is None:
            continue
        if own := same.get(key):
            if own in settings and settings[own] is not None and settings[own] != value:
                raise UsageError(
                    f"{file}: {key}={value} contradicts {own}={settings[own]}; leave what the network was trained with"
                )
            if own not in settings and key in _MAMBA_SSM:
                raise UsageError(
                    f"{file}: {key} is mamba_ssm's word under model_type={kind}, which says {own}; remove model_type "
                    "if the checkpoint has mamba_ssm's layout"
                )
            if read.setdefault(own, value) != value:
                raise UsageError(f"{file}: {own} is given twice, as {read[own]} and as {key}={value}")
        elif key == "intermediate_size" or key == "d_inner":
            if value != (inner := int(settings.get("expand", 2) * settings.get("hidden_size", 0))):
                raise UsageError(f"{file}: {key}={value} is not supported by {kind}; allowed: {inner}, expand x width")
        elif key in _ONLY:
            if value not in _ONLY[key]:
                allowed = " or ".join(map(str, _ONLY[key]))
                raise UsageError(f"{file}: {key}={value} is not supported by {kind}; allowed: {allowed}")
        elif key == "norm_before_gate" and kind == "mamba2":
            pass  # written by transformers before 4.45 whatever it was: its network has always gated first
        elif not _IMMATERIAL.fullmatch(key) and key not in _ROPE:
            strangers.append(f"{key}={value}")
    if strangers:
        raise UsageError(
            f"{file}: {', '.join(strangers[:3])}{' …' if len(strangers) > 3 else ''}: transformers' {kind} does not "
            "read this, and it may change activations; remove it from config.json if it does not"
        )
    return read


def _check_activation(file: Path, config: Any) -> None:
    """Raises UsageError for a mixer that applies anything but SiLU after its convolution: that is what is observed."""
    family = FAMILIES.get(config.model_type)
    key = family.activation if family else None
    value = getattr(config, key, "silu") if key else "silu"
    if value not in ("silu", "swish"):
        raise UsageError(f"{file}: {key}={value} is not supported: Mamba mixers are observed with SiLU; allowed: silu")
