"""Opening W&B runs: the mode, the server, and the places where W&B may write. wandb is imported only when needed."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweep.config.knobs import WANDB_MODES, Wandb

CONNECT = 12.0  # seconds to wait for the server
DELIVER = 60.0  # seconds to wait for uploads at the end
FLUSH = 0.5  # seconds of log that a kill may cost; W&B's own default is 15

_refused: set[str] = set()  # servers that one cell of this process waited for in vain: others need not


class Unreachable(Exception):
    """No server takes the run."""


class NoKey(Unreachable):
    """Nothing can reach any server: no key is configured."""


@dataclass(frozen=True)
class Identity:
    """Names and id of a run: one id is one run, however often it is opened."""

    id: str
    name: str
    group: str
    job_type: str


def mode(asked: str) -> str:
    """`auto` leaves the choice to W&B's own variables, where they are set."""
    disabled = os.environ.get("WANDB_DISABLED", "").casefold() in ("true", "1", "yes", "on")
    wanted = "disabled" if disabled else os.environ.get("WANDB_MODE", "auto").casefold()
    return wanted if asked == "auto" and wanted in WANDB_MODES else asked


def server(asked: str, directory: Path) -> str | None:
    """The server a key is configured for (in the environment, netrc or settings: W&B itself looks), else None.

    Raises Unreachable where online was asked for without a key, and where the key cannot be one."""
    import wandb

    with inside(directory):
        url = str(wandb.setup(_quiet(mode="online")).settings.base_url)
        try:
            if wandb.login(prompt=False, verify=False):
                return url
        except wandb.Error as error:
            raise Unreachable(first_line(error)) from error
    if asked == "online":
        raise NoKey(f"no key for {url}: run `wandb login` or set WANDB_API_KEY")
    return None


def answers(url: str) -> bool:
    """True if anything answers there, whatever it says. W&B's own process would ask again and again, and has been seen
    not to end."""
    try:
        urllib.request.urlopen(url, timeout=CONNECT).close()
    except (urllib.error.HTTPError, http.client.HTTPException):
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)  # W&B has settings of its own for certificates
    return True


def online(url: str, settings: Wandb, directory: Path, identity: Identity, config: dict[str, Any]) -> Any:
    """An online run. Raises Unreachable after a bounded wait, leaving nothing of the attempt behind."""
    if url in _refused:
        raise Unreachable(f"{url} could not be reached a moment ago")
    before = _places(directory, identity)
    try:
        return _init("online", settings, directory, identity, config)
    except Exception as error:  # wandb raises a dozen unrelated types here
        import wandb

        wandb.teardown()  # its service would hold on to the run's id
        for place in _places(directory, identity) - before:
            shutil.rmtree(place, ignore_errors=True)
        _refused.add(url)
        raise Unreachable(f"{url} did not take the run ({first_line(error)})") from error


def offline(settings: Wandb, directory: Path, identity: Identity, config: dict[str, Any]) -> Any:
    """An offline run."""
    return _init("offline", settings, directory, identity, config)


def _init(
    mode: Literal["online", "offline"], settings: Wandb, directory: Path, identity: Identity, config: dict[str, Any]
) -> Any:
    import wandb

    with inside(directory):
        return wandb.init(
            entity=settings.entity,
            project=settings.project,
            tags=settings.tags,
            id=identity.id,
            name=identity.name,
            group=identity.group,
            job_type=identity.job_type,
            config=config,
            mode=mode,
            resume="allow" if mode == "online" else None,  # steps that have arrived are not sent again
            reinit="create_new",  # leave wandb.run alone, it may be somebody else's
            settings=_quiet(
                root_dir=str(root(directory)),
                init_timeout=CONNECT,
                finish_timeout=DELIVER,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH,
                x_disable_stats=True,  # the load of the machine says nothing of a scale
                disable_git=True,  # run.json has the program's revision; this would be the working directory's
                save_code=False,
                disable_job_creation=True,
            ),
        )


def _quiet(**settings: Any) -> Any:
    import wandb

    return wandb.Settings(silent=True, console="off", **settings)


def _places(directory: Path, identity: Identity) -> set[Path]:
    """The directories in which W&B has opened this very run: others may use the same folder."""
    return set((root(directory) / "wandb").glob(f"run-*-{identity.id}"))


def root(directory: Path) -> Path:
    """The directory of a run's W&B files: below WANDB_DIR where that is set, else the run's own."""
    return Path(os.environ.get("WANDB_DIR") or directory).resolve()


@contextmanager
def inside(directory: Path) -> Iterator[None]:
    """W&B stages artifacts and caches where two environment variables say: inside the run directory. They are
    put back at once, since the next cell of this process has another directory."""
    place = root(directory) / "wandb"
    ours = {"WANDB_DATA_DIR": str(place / "data"), "WANDB_CACHE_DIR": str(place / "cache")}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def first_line(error: BaseException) -> str:
    """The message of an error, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
