"""What a grid says of an input that it cannot take, and the commands that it offers."""

from __future__ import annotations

from pathlib import Path

import pytest
import small

from tests.harness import Run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alpha=interval(0,1)"], "hydra-optuna-sweeper"),
        (["experiment=alpha_grid,null"], "null is no experiment"),
        (["hydra.run.dir=here"], "hydra.sweep.dir=DIRECTORY"),
        (["hydra/sweeper=optuna"], "pip install hydra-optuna-sweeper"),
    ],
)
def test_one_line(sweep: Run, arguments: list[str], said: str) -> None:
    done = sweep("-m", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr


def test_online_without_a_key_is_refused(sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for arguments in ([], ["-m", "alpha=0.9,0.99"]):
        done = sweep(*arguments, "wandb.mode=online")
        assert done.returncode == 2, done.stderr
        assert "no key for" in done.stderr.splitlines()[-1]
        assert not [p for p in (tmp_path / "runs").glob("*/run.json")]


def test_globs_take_no_file_that_others_are_made_of(sweep: Run, tmp_path: Path) -> None:
    cells = small.overrides(small.files(tmp_path))
    done = sweep("-m", *(c for c in cells if c != "data=text"), "data=glob([_*,text])", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "plan: 1 cells" in done.stdout


def test_the_command_offered_is_quoted_and_not_offered_for_nothing(sweep: Run, tmp_path: Path) -> None:
    cells = small.overrides(small.files(tmp_path))
    done = sweep("-m", *cells, "alpha=0.9", "hydra.sweep.dir=my sweep")
    assert "python -m sweep.compare 'my sweep'" in done.stdout, done.stderr
    (tmp_path / "model/model.safetensors").write_bytes(b"no weights")
    done = sweep("-m", *cells, "alpha=0.9", "hydra.sweep.dir=other", "store=elsewhere")
    assert done.returncode == 2
    assert "sweep.compare" not in done.stdout
