"""Files from the Hugging Face Hub, or one line that says what to do without it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from sweep.core.errors import UsageError, first_line

TIMEOUT = 4  # seconds to find out whether the Hub can be reached


Choose = Callable[[Sequence[str], Callable[[str], Path]], list[str]]  # all names, what fetches one → names wanted


def snapshot(
    repo: str,
    revision: str,
    wanted: Sequence[str] | Choose,
    whole: Callable[[Path], bool],
    knob: str,
    kind: str = "model",
) -> Path:
    """A local directory with the wanted files of a repository.

    wanted: patterns of names, or what chooses among all names, with small files to go by.
    A cached snapshot that is `whole` is used without asking the network, so that every cell of a sweep sees
    the same commit. knob: the setting that takes a local copy instead. Raises UsageError within 10 s where
    the repository is neither cached nor within reach: the Hub's client alone would retry for minutes."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        disable_progress_bars,
    )

    disable_progress_bars()
    where = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        cached = Path(
            snapshot_download(
                repo,
                repo_type=kind,
                revision=revision,
                allow_patterns=[] if callable(wanted) else list(wanted),
                local_files_only=True,
            )
        )
        if whole(cached):
            return cached
    except OSError:
        pass  # not cached
    except ValueError as error:  # no name of a repository
        raise UsageError(f"{repo} is no repository of the Hub; {knob} takes a local copy") from error
    try:
        info = HfApi().repo_info(repo, repo_type=kind, revision=revision, timeout=TIMEOUT)
    except RevisionNotFoundError as error:
        raise UsageError(f"{where} has no revision {revision}; look at {where}/commits/main") from error
    except GatedRepoError as error:
        raise UsageError(f"{where} is gated: accept its terms and log in, or set {knob} to a local copy") from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"{where} does not exist or is private; {knob} takes a local copy") from error
    except Exception as error:  # the network has as many errors as layers
        raise UsageError(
            f"{where} (revision {revision}) is not cached and cannot be reached ({first_line(error)}); "
            f"download it elsewhere and set {knob} to the copy"
        ) from error

    def fetch(patterns: Sequence[str]) -> Path:
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=list(patterns)))

    def exactly(names: Sequence[str]) -> list[str]:
        return [glob.escape(name) for name in names]  # names, not patterns

    try:
        if callable(wanted):
            names = sorted(file.rfilename for file in info.siblings or ())
            wanted = exactly(wanted(names, lambda name: fetch(exactly([name])) / name))
        return fetch(wanted)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{where}: download failed ({first_line(error)}); run again to resume") from error


def commit(directory: Path) -> str | None:
    """The commit a directory of the Hub's cache is a snapshot of."""
    return directory.name if directory.parent.name == "snapshots" else None
