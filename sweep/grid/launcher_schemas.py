"""The launchers' own schemas under names of their own, for files of conf/hydra/launcher to extend.

Hydra warns, five lines at a time, of a file and a schema of one name, which its next version will not match."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

LAUNCHERS = ("joblib", "ray")


class GridSchemas(SearchPathPlugin):
    """Renames the schemas once all plugins have been imported, before any file is read."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        known = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in LAUNCHERS:
            if schema := known.pop(f"{name}.yaml", None):
                known[f"{name}_schema.yaml"] = schema
