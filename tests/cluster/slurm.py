"""A real Slurm of one node, for as long as the tests run: munged, slurmctld and slurmd below one directory.

Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge. Needs root."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue")
CPUS = 4  # offered, whatever the machine has: config_overrides

# DefMemPerCPU: without it every job takes all memory and arrays run one by one. linuxproc: no cgroups needed.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=400
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=1
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str:
    """Why there can be no Slurm here; empty if there can."""
    lacking = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if lacking:
        return f"Slurm needs {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "the daemons of Slurm need root"


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment in which sbatch and its kind find the cluster."""
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    root.chmod(0o755)  # munged insists
    host = socket.gethostname().split(".")[0]
    (root / "state").mkdir()
    (root / "spool").mkdir()
    ctld, slurmd = _free_ports(2)
    (root / "slurm.conf").write_text(CONF.format(host=host, root=root, cpus=CPUS, ctld=ctld, slurmd=slurmd))
    env = {**os.environ, "SLURM_CONF": str(root / "slurm.conf"), "PATH": _path()}
    key, log = root / "munge.key", (root / "daemons.log").open("w")
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))

    try:
        subprocess.run(["mungekey", "--create", "--keyfile", str(key)], env=env, check=True)
        munge = {n: f"--{n}-file={root}/munge.{n}" for n in ("pid", "log", "seed")}
        start("munged", "--foreground", f"--key-file={key}", f"--socket={root}/munge.socket", *munge.values())
        _until(lambda: (root / "munge.socket").exists(), "munged", root)
        start("slurmctld", "-D", "-f", env["SLURM_CONF"])
        start("slurmd", "-D", "-f", env["SLURM_CONF"], "-N", host)

        def idle() -> bool:
            asked = subprocess.run(["sinfo", "-h", "-p", "main", "-o", "%T"], env=env, capture_output=True, text=True)
            return asked.stdout.startswith("idle")

        _until(idle, "an idle node", root)
        yield env
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        log.close()
        shutil.rmtree(root, ignore_errors=True)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _until(condition: object, what: str, root: Path) -> None:
    end = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            logs = "\n".join(f"{p.name}: {p.read_text()[-2000:]}" for p in root.glob("*log"))
            raise RuntimeError(f"Slurm did not start: no {what}\n{logs}")
        time.sleep(0.1)
