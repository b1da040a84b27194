"""`python -m bench.mutants [MODULE …]`: a fault at a time put into a module (mutmut), its tests run, the outcome kept.

Without a name nothing is run: the table of what mutants.json holds is printed, as `python -m bench mutants` wants it.
Each module is mutated in a copy of this checkout with the tests named here alone, the nearest ones, so that minutes
suffice; a fault that they miss may be noticed by others, so the score is a lower bound. With `all` for a name, all of
them are.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
Q, A, P = "tests/unit/quantization/test_", "tests/unit/compare/test_", "tests/property/test_"
TESTS = {
    "quantization.replicates": [f"{Q}replicates.py"],
    "quantization.metrics": [f"{Q}metrics.py"],
    "quantization.predicted_loss": [f"{Q}predicted_loss.py"],
    "quantization.formats": [f"{Q}formats.py"],
    "quantization.granularity": [f"{Q}granularity.py"],
    "quantization.bins": [f"{P}histogram.py", f"{Q}window.py", f"{Q}bins.py"],
    "quantization.fisher": [f"{Q}fisher.py", f"{Q}predicted_loss.py"],
    "quantization.prefix_sums": [f"{Q}scales.py", f"{Q}ties.py"],
    "quantization.window": [f"{Q}window.py"],
    "quantization.site_scales": [f"{Q}predicted_loss.py", f"{Q}subsets.py", f"{Q}site_scales.py"],
    "quantization.fold_sums": [f"{Q}fold_sums.py", f"{P}histogram.py", f"{Q}metrics.py"],
    "quantization.methods.minmax": [f"{Q}scales.py"],
    "quantization.methods.percentile": [f"{Q}scales.py"],
    "quantization.methods.mse": [f"{Q}scales.py", f"{Q}ties.py"],
    "quantization.methods.loss": [f"{Q}loss_method.py"],
    "quantization.methods.entropy": [f"{Q}scales.py", f"{Q}ties.py"],
    "quantization.methods.percentile_ema": ["tests/parity/test_ema.py"],
    "quantization.methods.registry": [f"{Q}scales.py"],
    "compare.analysis.significance": [f"{A}student.py"],
    "compare.analysis.agreement": [f"{A}agreement.py"],
    "compare.analysis.forecast": [f"{A}forecast.py"],
    "compare.analysis.cost": [f"{A}cost.py"],
    "compare.analysis.ranking": [f"{A}answer.py"],
    "compare.analysis.effects": [f"{A}verdicts.py"],
    "compare.analysis.per_site": [f"{A}truth.py", f"{A}verdicts.py"],
    "compare.analysis.differences": [f"{A}truth.py", f"{A}verdicts.py"],
    "compare.analysis.convergence": [f"{A}truth.py", f"{A}forecast.py"],
    "compare.analysis.perplexity": [f"{A}truth.py", f"{A}verdicts.py"],
    "compare.analysis.silu_gain": [f"{A}truth.py", f"{A}verdicts.py"],
}
# survivors that no one can notice, by the line that they leave, and why
ORDER = "of equal p either order gives the same"
WHOLE = "everything that is given is float64 already"
EQUIVALENT: dict[str, dict[str, str]] = {
    "compare.analysis.significance": {
        "return np.asarray(2 * stdtr(df, -np.abs(np.asarray(t, None))))": WHOLE,
        "return np.asarray(2 * stdtr(df, -np.abs(np.asarray(t, ))))": WHOLE,
        "order = known[np.argsort(p[known], ": ORDER,
    },
}
COPIED = ("sweep", "hydra_plugins", "conf", "docs", "bench", "tools", "tests")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "pyproject.toml")


def test(module: str) -> dict[str, Any]:
    """The outcome of every mutant of a module: how many there were, were killed (or ran on for ever), and the survivors
    as lines of a diff."""
    file = f"sweep/{module.replace('.', '/')}.py"
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy = Path(directory)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "wandb"))
        for name in FILES:
            shutil.copy(ROOT / name, copy / name)
        settings = (copy / "pyproject.toml").read_text()
        tests = [path for path in TESTS[module] if (copy / path).is_file()]
        for key, value in (("only_mutate", [file]), ("pytest_add_cli_args_test_selection", tests)):
            settings = re.sub(rf"^{key} = .*$", f"{key} = {json.dumps(value)}", settings, flags=re.MULTILINE)
        (copy / "pyproject.toml").write_text(settings)
        run = subprocess.run([*MUTMUT, "run", "--max-children", "1"], cwd=copy, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"error: mutmut failed on {module}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
        codes = json.loads((copy / "mutants" / f"{file}.meta").read_text())["exit_code_by_key"]
        left = [name for name, code in codes.items() if code in (0, 5, 33)]  # survived, or no test comes by
        killed = sum(code in (1, 3) for code in codes.values())
        survivors = [_change(copy, name) for name in left]
    known = EQUIVALENT.get(module, {})
    return {
        "on": str(datetime.date.today()),
        "mutants": len(codes),
        "killed": killed,
        "timeouts": len(codes) - killed - len(left),
        "equivalent": sum(any(line.startswith(f"+ {same}") for same in known) for line in survivors),
        "survivors": survivors,
    }


MUTMUT = [sys.executable, "-m", "mutmut"]


def _change(copy: Path, name: str) -> str:
    """`+ the line it leaves   - the line that was   (function)` of a mutant."""
    shown = subprocess.run([*MUTMUT, "show", name], cwd=copy, capture_output=True, text=True).stdout.splitlines()
    lines = {
        sign: [f"{sign} {line[1:].strip()}" for line in shown if re.match(rf"\{sign}(?!\{sign})", line)]
        for sign in "+-"
    }
    return "   ".join([*lines["+"], *lines["-"], f"({name.rpartition('.')[2]})"])


def read() -> dict[str, dict[str, Any]]:
    return dict(json.loads(RECORD.read_text())) if RECORD.is_file() else {}


def main() -> None:
    asked = [a for a in sys.argv[1:] if not a.startswith("--")]
    asked = list(TESTS) if asked == ["all"] else asked
    if unknown := set(asked) - set(TESTS):
        sys.exit(f"error: no module {', '.join(sorted(unknown))}; there are {', '.join(TESTS)} and all")
    for module in asked:
        outcome = test(module)
        RECORD.write_text(json.dumps(read() | {module: outcome}, indent=1) + "\n")
        left = len(outcome["survivors"]) - outcome["equivalent"]
        print(f"{module}: {outcome['killed']} of {outcome['mutants']} killed, {left} to look at", file=sys.stderr)
        print("\n".join(outcome["survivors"]), file=sys.stderr, flush=True)
    print(table(read()))


def table(known: dict[str, dict[str, Any]]) -> str:
    """A row per module. Score: killed of those that someone can notice."""
    rows = []
    total = dict.fromkeys(("mutants", "killed", "timeouts", "equivalent"), 0)
    for module in TESTS:
        if module in known:
            one = known[module]
            rows.append((module, one))
            total = {key: total[key] + one[key] for key in total}
    lines = ["| module | mutants | killed | ran too long | equivalent | score | run |", "|---|--:|--:|--:|--:|--:|---|"]
    for module, one in [*rows, ("total", total | {"on": ""})]:
        score = one["killed"] / max(1, one["mutants"] - one["equivalent"] - one["timeouts"])
        numbers = " | ".join(str(one[key]) for key in ("mutants", "killed", "timeouts", "equivalent"))
        lines.append(f"| {module} | {numbers} | {score:.0%} | {one['on']} |")
    every = [
        f"{p.relative_to(ROOT / 'sweep')}"
        for d in ("quantization", "quantization/methods", "compare/analysis")
        for p in sorted((ROOT / "sweep" / d).glob("*.py"))
        if p.stem != "__init__"
    ]
    not_run = [name for path in every if (name := path[:-3].replace("/", ".")) not in known]
    return "\n".join(lines) + f"\n\nNot run: {', '.join(not_run) or 'none'}."


if __name__ == "__main__":
    main()
