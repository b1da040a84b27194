"""Many cells: planned before they start, claimed, launched, resumed. hydra_plugins/ holds Hydra's doors to it.

Knows nothing of what the cells' numbers mean."""
