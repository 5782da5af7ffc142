"""A Slurm cluster of one node on this machine, installed from Debian's packages if it is not there; needs root."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "PREEMPTED"}
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=3600
KillWait=30
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=1,requeue_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def install() -> None:
    """Skip the test where Slurm neither is nor can be installed."""
    if os.geteuid() != 0:
        pytest.skip("Slurm needs root")
    os.environ["PATH"] += ":/usr/sbin"
    if not all(shutil.which(program) for program in PROGRAMS):
        if not shutil.which("apt-get"):
            pytest.skip("neither Slurm nor apt-get is here")
        words = ["apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(words, env=environment, capture_output=True).returncode:
            pytest.skip("apt-get cannot install slurm-wlm and munge")


class Cluster:
    """The daemons, and the commands that are sent to them."""

    def __init__(self, folder: Path):
        """Start munged, slurmctld and slurmd, with all their files in `folder`."""
        self.folder = folder
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir(mode=0o755)
        config = folder / "slurm.conf"
        ports = {"control": free_port(), "daemon": free_port()}
        host = socket.gethostname().partition(".")[0]
        config.write_text(CONFIG.format(folder=folder, host=host, **ports), encoding="utf-8")
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self.environment = os.environ | {"SLURM_CONF": str(config)}
        munge = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        places = [f"--{option}={folder}/munge/{name}" for option, name in munge.items()]
        self.daemons = [self._start("munged", "--foreground", "--force", *places)]
        self._until((folder / "munge" / "socket").exists, 20)
        self.daemons += [self._start("slurmctld", "-D"), self._start("slurmd", "-D", "-N", host)]
        self._until(lambda: self.say("sinfo", "-h", "-o", "%T").strip() == "idle", 60)

    def say(self, *words: str) -> str:
        """What a command prints."""
        return subprocess.run(words, env=self.environment, capture_output=True, text=True).stdout

    def submit(self, script: Path) -> str:
        """The number of the job."""
        sent = subprocess.run(
            ["sbatch", "--parsable", str(script)], env=self.environment, cwd=self.folder, capture_output=True, text=True
        )
        assert sent.returncode == 0, sent.stderr
        return sent.stdout.strip()

    def states(self, job: str) -> dict[str, str]:
        """Task of an array to its state."""
        text = self.say("squeue", "-r", "-h", "-t", "all", "-j", job, "-o", "%K %T")
        return dict(line.split() for line in text.splitlines())

    def wait(self, job: str, seconds: float) -> dict[str, str]:
        """The states of the tasks when all have ended."""
        self._until(lambda: {*self.states(job).values()} <= ENDED, seconds)
        return self.states(job)

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait."""
        self._until(condition, seconds)

    def end(self) -> None:
        """Cancel all jobs and end the daemons."""
        subprocess.run(["scancel", "--full", "-u", "root"], env=self.environment, capture_output=True)
        time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, *words: str) -> subprocess.Popen:
        with open(self.folder / f"{words[0]}.out", "w", encoding="utf-8") as file:
            return subprocess.Popen(words, env=self.environment, stdout=file, stderr=file)

    def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [f"{p.name}: {p.read_text(encoding='utf-8', errors='replace')[-1500:]}"
                        for p in sorted(self.folder.glob("slurm*.*"))]  # fmt: skip
                raise AssertionError("waited in vain; " + "\n".join(logs))
            time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
