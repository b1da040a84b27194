"""The ground that every room stands on: errors, signals, progress, whole files, provenance, access to the Hub.

Knows nothing of quantization, models or configuration."""
