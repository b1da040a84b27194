"""`python -m bench.mutants [MODULE …]`: a fault at a time put into a module (mutmut), its tests run, the outcome kept.

Without a name nothing is run: the table of what mutants.json holds is printed, as `python -m bench mutants` wants it.
Each module is mutated in a copy of this checkout with the tests named here alone, the nearest ones, so that minutes
suffice; a fault that they miss may be noticed by others, so the score is a lower bound. `all` names all modules. With
`--survivors` only mutants that survived the last run are tried, against new tests.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
Q, A = "tests/unit/quantization/test_", "tests/unit/compare/test_"
TESTS = {
    "quantization.replicates": [f"{Q}replicates.py"],
    "quantization.metrics": [f"{Q}metrics.py"],
    "quantization.predicted_loss": [f"{Q}predicted_loss_by_hand.py"],
    "quantization.formats": [f"{Q}formats.py"],
    "quantization.granularity": [f"{Q}parts.py"],
    "quantization.bins": [f"{Q}bins.py"],
    "quantization.fisher": [f"{Q}fisher_histogram.py", f"{Q}predicted_loss.py"],
    "quantization.lookup": [f"{Q}lookup.py"],
    "quantization.histogram": [f"{Q}histogram_by_hand.py"],
    "quantization.prefix_sums": [f"{Q}prefix_sums.py"],
    "quantization.window": [f"{Q}window_by_hand.py"],
    "quantization.site_scales": [f"{Q}site_scales.py"],
    "quantization.fold_sums": [f"{Q}fold_sums_by_hand.py", f"{Q}fold_sums.py"],
    "quantization.statistics": [f"{Q}site_statistics.py"],
    "quantization.site_statistics": [f"{Q}site_statistics.py"],
    "quantization.statistics_io": [f"{Q}site_statistics.py"],
    "quantization.sites": [f"{Q}sites.py"],
    "quantization.sort_and_cluster": [f"{Q}clusters_by_hand.py"],
    "quantization.published_clusters": [f"{Q}clusters_by_hand.py"],
    "quantization.methods.minmax": [f"{Q}percentile.py"],
    "quantization.methods.percentile": [f"{Q}percentile.py"],
    "quantization.methods.mse": [f"{Q}mse_steps.py", f"{Q}mse.py", f"{Q}ties.py"],
    "quantization.methods.loss": [f"{Q}loss.py"],
    "quantization.methods.entropy": [f"{Q}entropy.py", f"{Q}ties.py"],
    "quantization.methods.percentile_ema": [f"{Q}percentile_ema.py"],
    "quantization.methods.method": [f"{Q}percentile.py"],
    "quantization.methods.registry": [f"{Q}percentile.py"],
    "compare.analysis.significance": [f"{A}student.py"],
    "compare.analysis.agreement": [f"{A}agreement.py"],
    "compare.analysis.forecast": [f"{A}forecast.py"],
    "compare.analysis.advice": [f"{A}recommend_by_hand.py"],
    "compare.analysis.board": [f"{A}recommend_by_hand.py"],
    "compare.analysis.layer_choice": [f"{A}recommend_by_hand.py", f"{A}truth.py"],
    "compare.analysis.contexts": [f"{A}contexts_by_hand.py"],
    "compare.analysis.contrasts": [f"{A}contrasts_by_hand.py"],
    "compare.analysis.cost": [f"{A}cost_by_hand.py", f"{A}not_judged.py"],
    "compare.analysis.ranking": [f"{A}ranking_by_hand.py", f"{A}totals.py"],
    "compare.analysis.recommend": [f"{A}recommend_by_hand.py"],
    "compare.analysis.effects": [f"{A}effects.py", f"{A}not_judged.py"],
    "compare.analysis.mean_sqnr": [f"{A}differences_by_hand.py", f"{A}recommend_by_hand.py"],
    "compare.analysis.per_site": [f"{A}differences_by_hand.py", f"{A}recommend_by_hand.py"],
    "compare.analysis.differences": [f"{A}differences_by_hand.py"],
    "compare.analysis.convergence": [f"{A}convergence_by_hand.py", f"{A}forecast.py"],
    "compare.analysis.place_errors": [f"{A}recommend_by_hand.py", f"{A}charts.py"],
    "compare.analysis.perplexity": [f"{A}perplexity.py"],
    "compare.analysis.verdicts": [f"{A}verdicts_by_hand.py", f"{A}not_judged.py"],
    "compare.analysis.silu_gain": [f"{A}truth.py"],
}
# survivors that no one can notice: module → the line that they leave, or how it begins → why
EQUIVALENT: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("mutants_equivalent.json").read_text())
KILLED, SURVIVED = (1, 3), (0, 5, 33)  # codes of mutmut; 5 and 33: no test comes by
COPIED = ("sweep", "hydra_plugins", "conf", "docs", "bench", "tools", "tests")
FILES = ("README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "pyproject.toml")
WRAPPERS = ("property", "cached_property", "cache", "lru_cache")
MUTMUT = [sys.executable, "-m", "mutmut"]


def tried(module: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """The outcome of the mutants of a module: their number, how many were killed, how many ran too long, and survivors,
    name → the line they leave and the line that was. before: an outcome whose survivors alone are tried again."""
    file = f"sweep/{module.replace('.', '/')}.py"
    source = _digest(module)
    if before and before["source"] != source:
        sys.exit(f"error: {file} is another than that whose mutants survived; run them all, without --survivors")
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        copy = Path(directory)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy(ROOT / name, copy / name)
        (copy / file).write_text(_undecorated((ROOT / file).read_text()))
        settings = (copy / "pyproject.toml").read_text()
        for key, value in (("only_mutate", [file]), ("pytest_add_cli_args_test_selection", TESTS[module])):
            settings = re.sub(rf"^{key} = .*$", f"{key} = {json.dumps(value)}", settings, flags=re.MULTILINE)
        (copy / "pyproject.toml").write_text(settings)
        names = [f"sweep.{module}.{name}" for name in before["survivors"]] if before else []
        command = [*MUTMUT, "run", "--max-children", "1", *names]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"error: mutmut failed on {module}:\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
        codes = json.loads((copy / "mutants" / f"{file}.meta").read_text())["exit_code_by_key"]
        codes_here = {name: codes[name] for name in names or codes}
        left = [name for name, code in codes_here.items() if code in SURVIVED]
        survivors = {name.rpartition(".")[2]: _change(copy, name) for name in left}
    killed = sum(code in KILLED for code in codes_here.values())
    return {
        "on": str(datetime.date.today()),
        "source": source,
        "mutants": len(codes),
        "killed": killed + (before["killed"] if before else 0),
        "timeouts": len(codes_here) - killed - len(left) + (before["timeouts"] if before else 0),
        "survivors": survivors,
    }


def _digest(module: str) -> str:
    return hashlib.sha256((ROOT / f"sweep/{module.replace('.', '/')}.py").read_bytes()).hexdigest()[:12]


def _undecorated(source: str) -> str:
    """The same with properties and caches put around functions afterwards, as mutmut leaves what is decorated alone."""
    lines = source.splitlines(keepends=True)
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.decorator_list
    )
    for node in sorted(functions, key=lambda node: -node.lineno):
        first, around = node.decorator_list[0].lineno, ast.unparse(node.decorator_list[0])
        if len(node.decorator_list) == 1 and around.partition("(")[0] in WRAPPERS and node.end_lineno:
            lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {around}({node.name})\n")
            del lines[first - 1 : node.lineno - 1]
    return "".join(lines)


def _change(copy: Path, name: str) -> list[str]:
    """The line that a mutant leaves and the one that was; one that spans several is joined."""
    shown = subprocess.run([*MUTMUT, "show", name], cwd=copy, capture_output=True, text=True).stdout.splitlines()
    return [
        " ".join(line[1:].strip() for line in shown if line.startswith(sign) and not line.startswith(sign * 2))
        for sign in "+-"
    ]


def equivalent(module: str, now: str, was: str) -> bool:
    """Whether no one can notice a survivor: one of EQUIVALENT, float or SQL in capitals, a `strict` of zip, a second
    guard."""
    if now.lower() == was.lower() and re.search(r"\b(SELECT|FROM|WHERE|GROUP BY|ORDER BY)\b", was):
        return True  # SQL reads capitals as small letters
    plain = (
        re.sub(r",\s*strict=\w+|,\s*(?=\))", "", line).replace('("NAN")', '("nan")').replace('("INF")', '("inf")')
        for line in (now, was)
    )
    return len(set(plain)) == 1 or any(now.startswith(line) for line in EQUIVALENT.get(module, {}))


def read() -> dict[str, dict[str, Any]]:
    """Module → its last outcome."""
    return dict(json.loads(RECORD.read_text())) if RECORD.is_file() else {}


def main() -> None:
    asked, options = ([a for a in sys.argv[1:] if a.startswith("--") is flag] for flag in (False, True))
    asked = list(TESTS) if asked == ["all"] else asked
    if unknown := set(asked) - set(TESTS):
        sys.exit(f"error: no module {', '.join(sorted(unknown))}; there are {', '.join(TESTS)} and all")
    for module in asked:
        outcome = tried(module, read()[module] if "--survivors" in options else None)
        RECORD.write_text(json.dumps(read() | {module: outcome}, indent=1, ensure_ascii=False) + "\n")
        left = {n: c for n, c in outcome["survivors"].items() if not equivalent(module, *c)}
        print(f"{module}: {outcome['killed']} of {outcome['mutants']} killed, {len(left)} to look at", file=sys.stderr)
        for name, (now, was) in left.items():
            print(f"  {name}\n    - {was}\n    + {now}", file=sys.stderr, flush=True)
    print(table(read()))


def table(known: dict[str, dict[str, Any]]) -> str:
    """A row per module. Score: killed of those that someone can notice, where running too long is noticed."""
    lines = [
        "| module | mutants | killed | ran too long | equivalent | left | score | run |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    total = np.zeros(5, int)
    for module in TESTS:
        if not (one := known.get(module)):
            continue
        same = sum(equivalent(module, *change) for change in one["survivors"].values())
        numbers = [one["mutants"], one["killed"], one["timeouts"], same, len(one["survivors"]) - same]
        total += numbers
        lines.append(_row(module, numbers, one["on"]))
    lines.append(_row("total", total.tolist(), ""))
    every = [
        str(path.relative_to(ROOT / "sweep").with_suffix("")).replace("/", ".")
        for room in ("quantization", "quantization/methods", "compare/analysis")
        for path in sorted((ROOT / "sweep" / room).glob("*.py"))
        if path.stem not in ("__init__", "types", "rules")  # which hold no function
    ]
    changed = [m for m in TESTS if m in known and known[m]["source"] != _digest(m)]
    return (
        "\n".join(lines)
        + f"\n\nNot run: {', '.join(m for m in every if m not in known) or 'none'}."
        + f" Changed since their run: {', '.join(changed) or 'none'}."
    )


def _row(name: str, numbers: list[int], day: str) -> str:
    mutants, killed, timeouts, same, _ = numbers
    score = 100 * (killed + timeouts) // max(1, mutants - same)  # 100 only where none is left
    return f"| {name} | {' | '.join(map(str, numbers))} | {score} % | {day} |"


if __name__ == "__main__":
    main()
