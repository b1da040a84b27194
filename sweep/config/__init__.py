"""Typed knobs, composed by Hydra, validated once and frozen. Hydra and OmegaConf end here.

Knows nothing of torch or of what the knobs set in motion."""
