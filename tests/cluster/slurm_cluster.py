"""A real SLURM cluster of four virtual nodes on the loopback of this machine, from Debian's packages.

Partitions: `cpu` (c1 c2), `gpu` (g1 g2, two pretended a100 each) and `scavenge` (the same nodes, gives way to `gpu`).
Every file lies in the cluster's own folder and every port is its own, so several clusters run side by side. Commands
find it through a folder of shims, because the plugin's jobstep drops SLURM_CONF before it calls srun. Nothing is
enforced by cgroups: a job may use more memory than it asked for.
"""

import contextlib
import os
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "salloc", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr", "sstat", "sprio")
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
NODES = ("c1", "c2", "g1", "g2")
PORTS = range(20_000, 32_000)  # below the range from which the kernel hands out ports of its own

CONFIGURATION = """\
ClusterName=coread
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
{communication}
# cred_expire is also the delay before a requeued job may start again (120 s by default)
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# no cgroups and no binding: the nodes are virtual
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
LaunchParameters=test_exec
# nodes may claim more CPUs and memory than this machine has
SlurmdParameters=config_overrides
# short timers, except KillWait, in which a job that was told to end writes its record (30 s is the default everywhere)
SlurmctldTimeout=10
SlurmdTimeout=15
MessageTimeout=10
InactiveLimit=0
KillWait=30
# what ended stays known, for `scontrol show jobs`
MinJobAge=86400
UnkillableStepTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=1,sched_min_interval=100000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PriorityType=priority/multifactor
DefMemPerCPU=500
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=cpu Nodes=c1,c2 Default=YES MaxTime=2-00:00:00 DefaultTime=10 State=UP PriorityTier=10
PartitionName=gpu Nodes=g1,g2 MaxTime=2-00:00:00 DefaultTime=10 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=g1,g2 MaxTime=2-00:00:00 DefaultTime=10 State=UP PriorityTier=1 PreemptMode=REQUEUE \
GraceTime=15
"""


class ClusterUnavailableError(RuntimeError):
    """This machine cannot run the cluster; the message says why."""


class SlurmCluster:
    """Munge, slurmctld and one slurmd per node, started in `folder` and ended by the ids of what was started.

    `prefix` is put before every command of the cluster, for example to run it inside a network namespace.
    """

    def __init__(self, folder: Path, *, cpus: int = 4, memory_mb: int = 16_000, prefix: Sequence[str] = ()) -> None:
        self.folder, self.cpus, self.memory_mb, self.prefix = folder, cpus, memory_mb, tuple(prefix)
        self.configuration = folder / "etc" / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ------------------------------------------------------------------------------------------------------ its life

    def start(self) -> "SlurmCluster":
        """Start the daemons and wait until every node is idle; raises ClusterUnavailableError where that cannot be."""
        install_packages()
        self._write_configuration()
        self._write_shims()
        munge, run, log = (self.folder / name for name in ("munge", "run", "log"))
        try:
            self._spawn(
                "munged",
                *("munged", "--foreground", "--force", "--num-threads=4"),
                *(f"--key-file={munge}/munge.key", f"--seed-file={munge}/seed", f"--log-file={log}/munged.log"),
                *(f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid"),
            )
            self.wait_for("munge", lambda: _succeeds("munge", "-n", f"--socket={run}/munge.socket"), seconds=10)
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Cancel every job, end the daemons, and end what outlived its job; safe to call twice."""
        if "slurmctld" in self._daemons:
            with contextlib.suppress(subprocess.SubprocessError, TimeoutError):
                self.run("scancel", f"--user={_user()}", timeout=20)
                self.wait_for("cancelled jobs", lambda: not self.run("squeue", "-h", "-t", "R,CG"), seconds=15)
        for name in sorted(self._daemons, key=_stop_order):
            self._end(self._daemons[name])
        self._daemons.clear()
        # without cgroups a process can outlive its job; whatever carries this cluster's configuration is ours
        for process in _processes_with(SLURM_CONF=str(self.configuration)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def crash_node(self, node: str) -> None:
        """Kill a node with everything that runs on it, as a power cut does; it is DOWN after some 30 s."""
        jobs = list(_processes_with(SLURM_CONF=str(self.configuration), SLURMD_NODENAME=node))
        step_daemons = []
        for process in jobs:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = process.parent()
                if parent is not None and parent.name().startswith("slurmstepd"):
                    step_daemons.append(parent)
        # slurmd and its step daemons first: a step daemon that sees its job die reports it as FAILED
        daemon = self._daemons.pop(f"slurmd-{node}")
        for process in [psutil.Process(daemon.pid), *step_daemons, *jobs]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait(10)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, at first or after a crash."""
        (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node, "-f", str(self.configuration))

    def start_controller(self) -> None:
        """Start slurmctld, at first or after `stop_controller`."""
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.configuration))

    def stop_controller(self) -> None:
        """Stop slurmctld; nodes and jobs go on, and no command of SLURM is answered."""
        self._end(self._daemons.pop("slurmctld"))

    # ------------------------------------------------------------------------------------------------------- its use

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a user of this cluster: no trace of another one, and the shims first on the path."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
        # node names resolve nowhere, and distributed training connects to the first node by name
        return {
            **inherited,
            "PATH": os.pathsep.join((str(self.folder / "bin"), SYSTEM_PATH)),
            "MASTER_ADDR": "127.0.0.1",
        }

    def run(self, *command: str, timeout: float = 60) -> str:
        """Run a command as a user of the cluster and return its output; raises CalledProcessError if it fails."""
        done = subprocess.run(
            [*self.prefix, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        return done.stdout.strip()

    def jobs(self) -> dict[str, dict[str, str]]:
        """Every job that the controller still knows, finished ones too: job id -> fields of `scontrol show job`."""
        found = {}
        for line in self.run("scontrol", "--oneliner", "show", "jobs").splitlines():
            fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if "JobId" in fields:
                found[fields["JobId"]] = fields
        return found

    def queue(self) -> list[str]:
        """Ids of the jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%i").split()

    def node_of(self, job_id: str) -> str:
        """Name of the node that a job runs on, empty while it waits."""
        return self.run("squeue", "-h", "-j", job_id, "-o", "%N")

    def cancel_everything(self) -> None:
        """Cancel what a test left in the queue and wait until it is gone."""
        if self.queue():
            self.run("scancel", f"--user={_user()}")
        self.wait_for("an empty queue", lambda: not self.queue(), seconds=60)

    def start_missing(self) -> None:
        """Start the nodes that a test crashed and the controller that it stopped."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in NODES:
            if f"slurmd-{node}" not in self._daemons:
                self.start_node(node)
        self.wait_for("the controller", self._node_states, seconds=30)

    def wait_until_idle(self) -> None:
        """Return when every node is ready for jobs and has none."""
        self.wait_for("every node", lambda: set(self._node_states().values()) == {"idle"}, seconds=90)

    def wait_for(self, what: str, condition: Callable[[], Any], *, seconds: float) -> Any:
        """Return the first true value of `condition`; raises TimeoutError with the ends of the daemons' logs."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                logs = sorted(self.folder.glob("log/*"))
                tails = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-600:]}" for log in logs)
                raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{tails}")
            time.sleep(0.2)
        return value

    # ----------------------------------------------------------------------------------------------------- its inside

    def _node_states(self) -> dict[str, str]:
        try:
            lines = self.run("sinfo", "-h", "-N", "-o", "%N %T", timeout=20).splitlines()
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return {}  # the controller does not answer yet
        return dict(line.split() for line in lines)

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                [*self.prefix, *command],
                # a daemon must not think that it is part of a job of another cluster
                env={**self.environment, "SLURM_CONF": str(self.configuration)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, daemon: "subprocess.Popen[bytes]") -> None:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)

    def _write_shims(self) -> None:
        (self.folder / "bin").mkdir(exist_ok=True)
        for name in COMMANDS:
            if (program := shutil.which(name, path=SYSTEM_PATH)) is not None:
                shim = self.folder / "bin" / name
                configuration = shlex.quote(str(self.configuration))
                shim.write_text(f'#!/bin/sh\nexport SLURM_CONF={configuration}\nexec {program} "$@"\n')
                shim.chmod(0o755)

    def _write_configuration(self) -> None:
        for name in ("etc", "run", "log", "state", "spool", "dev", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        control_port, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        gpus = {"g1", "g2"}
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
            f"RealMemory={self.memory_mb}{' Gres=gpu:a100:2 Feature=a100' if node in gpus else ''} State=UNKNOWN"
            for node, port in zip(NODES, ports, strict=True)
        )
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host,
                user=_user(),
                folder=self.folder,
                control_port=control_port,
                communication=_communication(host),
                nodes=nodes,
            )
        )
        gres = [f"NodeName={node} Name=gpu Type=a100 {self._pretended_gpus()}" for node in sorted(gpus)]
        (self.configuration.parent / "gres.conf").write_text("\n".join(["AutoDetect=off", *gres]) + "\n")

    def _pretended_gpus(self) -> str:
        """Device files of two GPUs; SLURM sets CUDA_VISIBLE_DEVICES only for character devices with an index."""
        devices = [self.folder / "dev" / f"gpu{index}" for index in range(2)]
        for device in devices:
            with contextlib.suppress(PermissionError):
                if not device.exists():
                    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        if all(device.is_char_device() for device in devices):
            return f"File={self.folder}/dev/gpu[0-1]"
        return "File=/dev/tty[0-1]"


def install_packages() -> None:
    """Install Debian's packages of SLURM where this is root; raises ClusterUnavailableError elsewhere."""
    if all(shutil.which(name, path=SYSTEM_PATH) for name in (*DAEMONS, "sbatch", "munge")):
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise ClusterUnavailableError(
            f"SLURM is not installed, and installing {' '.join(PACKAGES)} needs root and apt-get"
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        [apt, "update", "-qq"],
        [apt, "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400
        )
        if done.returncode != 0:
            raise ClusterUnavailableError(f"SLURM cannot be installed: {(done.stderr or done.stdout).strip()[-300:]}")


def _communication(host: str) -> str:
    """Bind to the loopback where this machine's name is there; elsewhere SLURM has to listen on every address."""
    try:
        # as SLURM asks: with 127.0.0.1 as the only address of a machine, no name is found
        found = socket.getaddrinfo(host, None, socket.AF_INET, flags=socket.AI_ADDRCONFIG)
    except OSError:
        raise ClusterUnavailableError(f"SLURM finds no address of this machine, {host!r}") from None
    local = all(str(address[4][0]).startswith("127.") for address in found)
    return "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if local else ""


def _free_ports(count: int) -> list[int]:
    """Return neighbouring TCP ports of the loopback that nothing listens on."""
    start = PORTS.start + os.getpid() * 7 % (len(PORTS) - count)
    for first in (*range(start, PORTS.stop - count), *range(PORTS.start, start)):
        with contextlib.ExitStack() as bound, contextlib.suppress(OSError):
            for port in range(first, first + count):
                bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise ClusterUnavailableError("no free ports")


def _processes_with(**variables: str) -> Iterator[psutil.Process]:
    """Processes whose environment has these values; only what was started through this cluster carries its file."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if process.pid != os.getpid() and all(environment.get(name) == value for name, value in variables.items()):
                yield process


def _stop_order(name: str) -> int:
    """Nodes before the controller before the authentication."""
    return ("slurmd", "slurmctld", "munged").index(name.split("-")[0])


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _user() -> str:
    return psutil.Process().username()
