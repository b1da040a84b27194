"""From counts to scales: bins, histograms, statistics and their files, formats, methods, granularity, metrics.

Statistics know no method; methods know no network. numpy only: no torch, no Hydra."""
