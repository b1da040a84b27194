"""One command line: errors in one line that say how to write it, exit codes, versions, labels."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from sweep.config.arguments import arranged
from sweep.config.config import Config
from sweep.config.hydra_errors import refuse
from sweep.config.knobs import Calibration, Data, Evaluate, Model, Wandb
from sweep.core import cli, provenance
from sweep.core.console import Console
from sweep.core.errors import UsageError
from sweep.core.files import draft
from sweep.runs.tracking import wandb_connection
from tests.harness import ROOT, command, require

MODULES = ["compare", "dashboard", "quamba", "reproduce", "runs", "store", "track"]
CONFIG = Config(Model("tiny", "pkg://sweep/models/tiny"), Data("stdlib"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--alpha=0.99", "write alpha=0.99"),
        ("--calibration.samples=4", "write calibration.samples=4"),
        ("-z", "unknown option: -z"),
        ("model.path=a=b", "write 'model.path=\"a=b\"'"),
        ("data.path=~/x", "write 'data.path=\"~/x\"'"),
        ("data.path=/tmp/é", "write 'data.path=\"/tmp/é\"'"),
        ("alpha=0.9,", "ends in a comma; write alpha=0.9"),
        ("alpha", "is no KEY=VALUE"),
        ("", "is no KEY=VALUE"),
        ("model=_base", "model=_base is unknown"),
        ("model=null", "model=null is unknown"),
        ("--experimental-rerun=nope.pickle", "No such file"),
    ],
)
def test_what_hydra_cannot_read_says_how_to_write_it(given: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        arranged([given])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_proposed_can_be_read() -> None:
    for value in ("a=b", "~/x", "/tmp/é", 'say "x"='):
        with pytest.raises(UsageError) as refused:
            arranged([f"data.path={value}"])
        proposed = str(refused.value).split("write ")[1]
        (word,) = (subprocess.run(["sh", "-c", f"printf %s {proposed}"], capture_output=True, text=True).stdout,)
        assert arranged([word]) == [word]


def test_options_may_stand_between_overrides_and_names_in_any_case() -> None:
    assert arranged(["alpha=1", "-m", "model=TINY,2.7B"]) == ["-m", "alpha=1", "model=tiny,2.7b"]
    assert arranged(["-m", "hydra/launcher=Joblib"]) == ["-m", "hydra/launcher=joblib"]


def test_enumerations_in_any_case() -> None:
    other = replace(CONFIG, method="MinMax", format="INT8", granularity="Tensor", dtype="Float32", device="CPU")
    assert other.identity == replace(CONFIG, method="minmax").identity
    assert Evaluate(sites=["X_conv_OUT"]).sites == ["x_conv_out"]
    assert (Wandb(mode="OFFLINE").mode, Data("stdlib", split="Train").split) == ("offline", "train")


def test_a_range_of_floats_is_what_was_meant() -> None:
    cell = replace(CONFIG, alpha=0.9400000000000001)
    assert cell.alpha == 0.94
    assert cell.identity == replace(CONFIG, alpha=0.94).identity


def test_labels_tell_cells_apart() -> None:
    cells = [
        CONFIG,
        replace(CONFIG, dtype="bfloat16"),
        replace(CONFIG, data=Data("stdlib", split="heldout")),
        *(
            replace(CONFIG, calibration=Calibration(**one))
            for one in ({"seed": 1}, {"samples": 4}, {"samples": 4, "folds": 2}, {"text_quantiles": [0.9]})
        ),
        replace(CONFIG, evaluate=Evaluate(perplexity=True)),
        replace(CONFIG, model=Model("local", "/a/one")),
        replace(CONFIG, model=Model("local", "/a/two")),
    ]
    labels = [cell.label for cell in cells]
    assert labels[0] == "tiny percentile a=0.9995 int8 tensor"
    assert len(set(labels)) == len(labels), labels


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_one_style(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = import_module(f"sweep.{name}.__main__" if name in ("compare", "runs") else f"sweep.{name}").main
    assert main(["--nope"]) == cli.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert error.endswith(f"see python -m sweep.{name} --help\n")
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert (left.value.code, capsys.readouterr().out) == (0, f"{cli.VERSION}\n")


def test_a_usage_error_of_compare_is_one_line(tmp_path: Path) -> None:
    for arguments in (["--help"], ["--nope"], ["nowhere"]):
        done = command(tmp_path, "sweep.compare", *arguments)
        assert len(done.stderr.splitlines()) == (arguments != ["--help"]), done.stderr


def test_the_console_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][cli.SCRIPT]
    assert getattr(import_module(script.partition(":")[0]), script.partition(":")[2]) is cli.script
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"/bin/{cli.SCRIPT}"])
    for given, code, said in (
        (["--version"], 0, cli.VERSION),
        (["--help"], 0, "reproduce"),
        ([], 2, "usage:"),
        (["runs", "nowhere"], 2, "nowhere: no such directory"),
        (["runs", "--nope"], 2, "see mamba-sweep runs --help"),
        (["run", "--version"], 0, cli.VERSION),
        (["recipe", "nowhere"], 2, "error: nowhere: no such directory"),
        (["recipe", "--bits", "many"], 2, "see mamba-sweep recipe --help"),
    ):
        assert cli.dispatch(given) == code
        shown = capsys.readouterr()
        assert said in shown.out + shown.err
    for given, said in ((["comprae"], "did you mean compare?"), (["alpha=0.9"], "mamba-sweep run alpha=0.9")):
        with pytest.raises(UsageError, match=said.replace("?", r"\?")):
            cli.dispatch(given)


@pytest.mark.parametrize("name", [*(n for n in cli.COMMANDS), ""])
def test_help_and_errors_are_spelled_as_the_command_was(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"/bin/{cli.SCRIPT}"])
    with suppress(SystemExit):
        cli.dispatch([*([name] if name else []), "--help"])
    shown = capsys.readouterr().out
    assert cli.SCRIPT in shown
    assert not re.search(r"python -m sweep(?!` is `mamba-sweep run`)", shown)


def test_an_unknown_knob_points_to_the_help_of_the_command_that_was_typed(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name(cli.SCRIPT)
    for typed, words in (
        ([str(script), "run"], "mamba-sweep run"),
        ([sys.executable, "-m", "sweep"], "python -m sweep"),
    ):
        done = subprocess.run(
            [*typed, "nosuch=3"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (2, f"error: unknown key 'nosuch': see {words} --help\n")


def test_a_value_that_is_none_of_several_is_said_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for name, given, said in (
        ("store", ["nope"], "allowed: list, verify, prune"),
        (
            "compare",
            ["--format", "latx"],
            "error: format=latx is unknown; allowed: terminal, markdown, csv, latex, json",
        ),
        ("track", ["replya", "x"], "did you mean replay?"),
    ):
        main = import_module(f"sweep.{name}.__main__" if name == "compare" else f"sweep.{name}").main
        assert main(given) == cli.USAGE
        assert said in capsys.readouterr().err


def test_a_shell_completes_commands_and_the_knobs_of_run(tmp_path: Path) -> None:
    """As bash does it, with what `mamba-sweep run -sc install=bash` prints."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for line, expected in (
        ("mamba-sweep re", {"reproduce", "recipe"}),
        ("mamba-sweep compare r", set()),  # bash goes on with files
        ("mamba-sweep run meth", {"method="}),
        ("mamba-sweep run alpha=0.9 model=mamba1-1", {"model=mamba1-1.4b", "model=mamba1-130m"}),
    ):
        words = line.split()
        program = (
            f'eval "$({cli.SCRIPT} run -sc install=bash)"; COMP_LINE="{line}" COMP_POINT={len(line)}'
            f" COMP_CWORD={len(words) - 1}; export COMP_LINE COMP_POINT; hydra_bash_completion;"
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert set(done.stdout.split()) == expected, done.stderr


def installs(shell: str) -> str:
    """The line of the documentation that sets completion up in a shell."""
    text = (ROOT / "docs" / "commands.md").read_text()
    (line,) = (line for line in text.splitlines() if f"install={shell}" in line and "sweep run" in line)
    return line


def within(shell: str, tmp_path: Path, *words: str) -> str:
    require(shutil.which(shell), f"there is no {shell}")
    (tmp_path / "runs of mine").mkdir()
    environment = {
        "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [shell, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fish_completes(tmp_path: Path) -> None:
    lines = ("mamba-sweep re", "mamba-sweep run meth", "mamba-sweep run model=mamba1-1", "mamba-sweep compare ru")
    program = "; ".join([installs("fish"), *(f"complete -C '{line}'; echo" for line in lines)])
    shown = within("fish", tmp_path, "--no-config", "-c", program).split("\n\n")
    answers = [{line.split("\t")[0] for line in part.splitlines() if line} for part in shown]
    assert answers[:4] == [
        {"recipe", "reproduce"}, {"method="}, {"model=mamba1-1.4b", "model=mamba1-130m"}, {"runs of mine/"},
    ]  # fmt: skip


ZSH = r"""
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z '{install}; echo REA""DY'
zpty -r -m z shown '*READY*'
zpty -n -w z $'mamba-sweep re\t\t'
zpty -r -m z shown '*recipe*reproduce*'
zpty -n -w z $'\C-umamba-sweep run meth\t'
zpty -r -m z shown '*method=*'
zpty -n -w z $'\C-umamba-sweep run alpha=0.9 model=mamba1-1\t\t'
zpty -r -m z shown '*mamba1-1.4b*mamba1-130m*'
zpty -n -w z $'\C-umamba-sweep compare ru\t'
zpty -r -m z shown '*runs\\ of\\ mine*'
print completed
"""


def test_zsh_completes(tmp_path: Path) -> None:
    """On a terminal of its own; what does not come is waited for until the time is up."""
    install = installs("zsh").replace("&& compinit", "&& compinit -u -D")  # whoever's files there are, and no cache
    assert within("zsh", tmp_path, "-f", "-c", ZSH.format(install=install)) == "completed\n"


ENDS = """
import sys
from sweep.core import cli
def main(arguments):
    {body}
cli.run(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return cli.NO", 1, ""),
        ("raise cli.UsageError('so')", 2, "error: so\n"),
        ("raise OSError(28, 'No space left', 'x.html')", 2, "error: x.html: No space left\n"),
        ("raise BrokenPipeError(32, 'Broken pipe')", 0, ""),
        ("1 / 0", 70, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_how_a_command_ends(body: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS.format(body=body)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.endswith(said) if code == 70 else done.stderr == said


@pytest.mark.parametrize("module", ["sweep", "sweep.runs"])
def test_a_full_disk_and_a_closed_pipe_are_no_traceback(tmp_path: Path, module: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", module, *(["--help"] if module == "sweep" else ["."])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def fail() -> None:
        with draft(target) as file:
            file.write_text("half")
            raise OSError(28, "disk full")

    with pytest.raises(OSError, match="No space") as failed:
        fail()
    assert failed.value.filename == str(target)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_width_of_zero_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    shown = io.StringIO()
    Console(file=shown).print("words")
    assert shown.getvalue() == "words\n"


def test_somebody_elses_repository_is_not_the_revision(tmp_path: Path) -> None:
    """A copy of the package in a folder of another project, and at its root."""
    for place in (tmp_path / "venv", tmp_path):
        place.mkdir(exist_ok=True)
        shutil.copytree(ROOT / "sweep", place / "sweep", ignore=shutil.ignore_patterns("models", "__pycache__"))
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "theirs"], check=True)
        program = "from sweep.core import provenance; print(provenance.git())"
        done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True, check=True)
        assert done.stdout == "None\n"


def test_a_revision_that_pip_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def locate_file(self, name: str) -> Path:
            return ROOT / name

        def read_text(self, name: str) -> str:
            return json.dumps({"url": "https://…", "vcs_info": {"vcs": "git", "commit_id": "ab" * 20}})

    monkeypatch.setattr(provenance.metadata, "distribution", lambda name: Installed())
    assert provenance._installed(ROOT) == {"revision": "ab" * 20, "dirty": False}
    assert provenance._installed(ROOT / "elsewhere") is None


def test_wandb_variables_hold_where_no_knob_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g", "TAGS": "a, b", "DIR": str(tmp_path)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert Wandb() == Wandb(project="p", entity="e", group="g", tags=["a", "b"])
    assert Wandb(project="mine").project == "mine"
    assert wandb_connection.root(Path("run")) == tmp_path
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert (wandb_connection.mode("auto"), wandb_connection.mode("offline")) == ("disabled", "offline")
    monkeypatch.delenv("WANDB_PROJECT")
    assert Wandb().project == "mamba-scales"


def test_a_refusal_of_hydras_is_printed_as_all_others_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place prints errors: with commands as they were typed, and to a reader that is gone without a traceback."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mamba-sweep", "run"])
    error = cli.UsageError("no such; see python -m sweep.store --help")
    with pytest.raises(SystemExit) as ended:
        refuse(error)
    first = capsys.readouterr().err
    assert (ended.value.code, cli.said(str(error))) == (cli.USAGE, cli.USAGE)
    assert first == capsys.readouterr().err == "error: no such; see mamba-sweep store --help\n"

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit):
        refuse(error)
