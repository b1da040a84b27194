"""What a user installs: one package and Hydra's namespace, everything inside, every command from anywhere."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.harness import ROOT

pytestmark = pytest.mark.slow

COMMANDS = (
    "sweep",
    *(f"sweep.{name}" for name in ["compare", "runs", "store", "track", "quamba", "reproduce", "dashboard"]),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("wheel")
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):  # a copy: building leaves its traces
        if (ROOT / name).is_file() and name.split("/")[0] in {
            "sweep",
            "conf",
            "hydra_plugins",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        }:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "sweep/conf").symlink_to("../conf")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    subprocess.run(build, cwd=source, check=True, timeout=240)
    (built,) = (source / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and what it depends on, and nothing of the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    # a path in a .pth file brings the packages that lie there, not its own .pth files: no editable installation
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return environment / "bin/python"


def test_nothing_top_level_but_the_package_and_hydras_namespace(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"sweep", "hydra_plugins"}
    assert {"sweep/py.typed", "sweep/conf/config.yaml", "sweep/models/tiny/model.safetensors"} <= set(names)
    assert "hydra_plugins/__init__.py" not in names


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_without_a_checkout(installed: Path, tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [installed, "-m", command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m {command}" in done.stdout


def test_a_grid_runs_from_another_directory(installed: Path, tmp_path: Path) -> None:
    grid = (
        "method=minmax,percentile calibration.samples=4 calibration.seqlen=32 calibration.folds=2 wandb.mode=disabled"
    )
    done = subprocess.run(
        [installed, "-m", "sweep", "-m", *grid.split(), "hydra.sweep.dir=grid"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("grid/*/scales.parquet"))) == 2
    where = subprocess.run(
        [installed, "-c", "import sweep; print(sweep.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(installed.parent.parent)
