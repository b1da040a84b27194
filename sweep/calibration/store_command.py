"""`python -m sweep.store list|verify|prune`: what the store holds, whether it is sound, and what can go."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock, Timeout
from rich.table import Table

from sweep.calibration.cache import FILES
from sweep.calibration.until import percent
from sweep.config.hydra_errors import counted
from sweep.core import cli
from sweep.core.console import Console
from sweep.core.errors import UsageError
from sweep.core.paths import expanded
from sweep.core.store import MANIFEST, Damaged, Store, discard, verify


@cli.command
def main(arguments: list[str] | None = None) -> int:
    parser = cli.parser("store", __doc__)
    parser.add_argument("--store", type=Path, default=Path("runs/calibrations"), help="directory (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="entries, unfinished calibrations and damaged ones, with their sizes")
    commands.add_parser("verify", help="check every byte of every entry; exit code 1 if one is damaged")
    prune = commands.add_parser("prune", help="remove unfinished, damaged and abandoned files, and entries by name")
    prune.add_argument("names", nargs="*", metavar="ENTRY", help="entries to remove: names or their beginnings")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    chosen = parser.parse_args(arguments)
    chosen.store = Path(expanded("--store", str(chosen.store)))
    if not chosen.store.is_dir():
        raise UsageError(f"store {chosen.store} does not exist; give --store DIRECTORY")
    store = Store(chosen.store)
    if chosen.command == "list":
        return show(store)
    return check(store) if chosen.command == "verify" else remove(store, chosen.names, chosen.dry_run)


def show(store: Store) -> int:
    shown = Table("calibration", "size", "what it is")
    total = 0
    for path in [*store.entries(), *store.leftovers()]:
        total += size(path)
        shown.add_row(path.name, megabytes(size(path)), describe(path))
    Console().print(shown)
    print(f"{counted(len(store.entries()), 'calibration')}, {megabytes(total)} in {store.root}")
    return 0


def check(store: Store) -> int:
    damaged = 0
    for entry in store.entries():
        try:
            verify(entry)
        except (Damaged, FileNotFoundError) as error:
            damaged += 1
            print(f"damaged  {error}")
        else:
            print(f"sound    {entry.name}")
    if damaged:
        print("a damaged calibration is moved aside and computed again when it is next asked for")
    return cli.NO if damaged else cli.OK


def remove(store: Store, names: list[str], dry: bool) -> int:
    """Nothing goes whose calibration is under way: its lock is held."""
    going = store.leftovers()
    for name in names:
        entries = [entry for entry in store.entries() if entry.name.startswith(name)]
        if not entries:
            raise UsageError(f"no entry begins with {name}; {cli.spelled('store')} list shows them")
        going += entries
    total = 0
    for path in going:
        if busy(store, path):
            print(f"in use    {path.name}")
            continue
        bytes_ = size(path)
        if not dry and (theirs := discard(path, FILES)):
            print(f"left      {path.name}: {theirs} is not the store's")
            continue
        total += bytes_
        print(f"{'would go' if dry else 'removed '}  {path.name}  {megabytes(bytes_)}")
    print(f"{megabytes(total)} {'would be freed' if dry else 'freed'}")
    return 0


def busy(store: Store, path: Path) -> bool:
    """True if a process holds a lock of this calibration, or of a shard of it."""
    name = path.name.removeprefix(".").removesuffix(".work").partition(".damaged-")[0]
    for file in store.root.glob(f".{name}*.lock"):
        try:
            with FileLock(file, blocking=False):
                pass
        except Timeout:
            return True
    return False


def describe(path: Path) -> str:
    if path.name.endswith(".work"):
        return f"unfinished, {len(list(path.rglob('fold-*')))} folds done"
    if ".damaged-" in path.name:
        return "damaged, set aside"
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        preimage, base = manifest["preimage"], manifest.get("grown_from")
        if "question" in preimage:
            asked = preimage["question"]
            of = f"{len(preimage['cells'])} cells" if len(preimage["cells"]) > 1 else preimage["cells"][0]
            return f"how many samples do for {percent(asked['tolerance'])} in {of}"
        grown = f", grown from the {base['samples']} samples of {base['entry']}" if base else ""
        known = f"{preimage['dtype']}, batch {preimage['batch_size']}, {preimage['folds']} folds"
        return f"{known}, {preimage['backend']}{grown}"
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged: no readable manifest"


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
