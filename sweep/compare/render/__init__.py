"""How a comparison is shown: terminal, report, pictures, files, W&B."""
