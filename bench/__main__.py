"""`python -m bench [NAME …] [--quick]`: run benchmarks, each in a process of its own; their tables go to RESULTS.md."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from sweep.core import cli
from sweep.models.kernels import malloc

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
NO_BENCHMARK = {"__init__", "__main__", "race"}
HEAD = """# Measured

Written by `python -m bench`; a section is replaced when its benchmark runs again. Seconds belong to the machine
named in the section; ratios are medians over interleaved repeats, which is what to compare.

"""


def names() -> list[str]:
    """Every file here with a `main()`."""
    files = (f for f in sorted(HERE.glob("*.py")) if f.stem not in NO_BENCHMARK)
    return [f.stem for f in files if "\ndef main(" in f.read_text()]


def machine() -> str:
    """Processor, cores and the versions that matter."""
    model = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    flags = {flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in _read("/proc/cpuinfo")}
    load = os.getloadavg()[0]
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "transformers", "numpy"))
    return (
        f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores ({' '.join(sorted(flags))}), "
        f"Python {platform.python_version()}, {versions}; load before the start {load:.1f}"
    )


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def sections(text: str) -> dict[str, str]:
    """Name → body of each `## name` of a file that this program wrote."""
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))


def main() -> None:
    cli.spin_briefly()  # competitors inherit it, but for those that are timed as they are usually run
    malloc.keep()
    known = names()
    asked, options = ([a for a in sys.argv[1:] if a.startswith("--") is flag] for flag in (False, True))
    if unknown := (set(asked) - set(known)) | (set(options) - {"--quick"}):
        sys.exit(f"error: no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = []
    for name in asked or known:
        head = f"{machine()}; {datetime.date.today()}"
        print(f"## {name}\n\n{head}\n", flush=True)
        result = subprocess.run([sys.executable, "-m", f"bench.{name}", *options], stdout=subprocess.PIPE, text=True)
        print(result.stdout, flush=True)
        if result.returncode:
            failed.append(name)
            continue
        found = sections(_read(str(RESULTS))) | {name: f"{head}\n\n{result.stdout.strip()}"}
        body = "\n\n".join(f"## {key}\n\n{found[key]}" for key in known if key in found)
        RESULTS.write_text(HEAD + body + "\n")
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
