"""A throw-away Slurm of two nodes on this host: its real daemons, as root and without systemd, in a folder of their own.

Needs Debian's packages slurm-wlm and munge. Both nodes are this host; a job's time between two turns is as short as Slurm allows.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
CONF = """
ClusterName=segtui
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=0,sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=1
KillWait=20
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=1 RealMemory=4000
PartitionName=test Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
"""


def why_not() -> str:
    """Why there can be no such Slurm here; nothing where it can be."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"there is no {', '.join(missing)}: install the packages slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "its daemons run as root here, and this is another user"


class Cluster:
    """Up once it is made; `stop` ends all that belongs to it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="segtui-slurm-"))
        self.folder.chmod(0o755)
        for name in ("state", "munge", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(mode=0o755)
        self.conf = self.folder / "slurm.conf"
        port, port_1, port_2 = _free_ports(3)
        text = CONF.format(host=socket.gethostname().partition(".")[0], folder=self.folder, port=port, port_1=port_1, port_2=port_2)
        self.conf.write_text(text)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}={self.folder}/munge/{file}" for name, file in MUNGE_FILES.items()]
        subprocess.run(["munged", "--force", *files], check=True, capture_output=True)
        os.environ["SLURM_CONF"] = str(self.conf)
        subprocess.run(["slurmctld", "-c", "-f", self.conf], check=True, capture_output=True)
        for node in ("n1", "n2"):
            subprocess.run(["slurmd", "-c", "-f", self.conf, "-N", node], check=True, capture_output=True)
        self.wait(lambda: self.idle == 2)

    def stop(self) -> None:
        with suppress(OSError, subprocess.SubprocessError):
            self.clear()
        daemons = []
        for file in [*self.folder.glob("slurm*.pid"), self.folder / "munge" / "pid"]:
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                daemons.append(psutil.Process(int(file.read_text())))
                daemons[-1].terminate()
        self.wait(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in daemons))
        os.environ.pop("SLURM_CONF", None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self) -> None:
        """No job runs or waits any more, and both nodes are free."""
        subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
        self.wait(lambda: not self.run("squeue", "--noheader"))
        self.wait(lambda: self.idle == 2)

    @property
    def idle(self) -> int:
        """Nodes that nobody has."""
        told = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--partition=test", "--format=%t"], capture_output=True, text=True, check=False
        )
        return told.stdout.split().count("idle")

    def run(self, *command: str) -> str:
        """What one of Slurm's programs says."""
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    def state(self, job: str) -> str:
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def fill(self, marker: Path, partition: str = "test") -> str:
        """A job that has both nodes until `marker` is there; its id."""
        script = f"while [ ! -e '{marker}' ]; do sleep 0.1; done"
        options = ("--parsable", "--nodes=2", "--exclusive", f"--partition={partition}", "--output=/dev/null", "--wrap")
        job = self.run("sbatch", *options, script)
        self.wait(lambda: self.state(job) == "RUNNING", 60)
        return job

    @staticmethod
    def wait(condition: Callable[[], bool], timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "waited too long for Slurm"
            time.sleep(0.2)


MUNGE_FILES = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
