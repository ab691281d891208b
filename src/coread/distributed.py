"""Who takes part when several processes train one member: which rank this process is, and how ranks are started.

Inside a Slurm allocation `srun` starts the ranks, elsewhere torch's elastic launcher on this machine. The launcher
replaces the process that asked for the ranks, so that whoever supervises that process supervises the launcher: a
signal, its end or its exit status are those of the whole training.
"""

import atexit
import contextlib
import json
import logging
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

PARENT_POLL_S = 1.0
USAGE_POLLS = 10
USAGE = "COREAD_USAGE"  # folder in which ranks tell the supervisor what they use: it is no parent of theirs
TELLING = threading.Lock()
SCONTROL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Ranks:
    """One process of those that train a member: `rank` of `size` in all, `local_rank` of `local_size` on its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: Literal["none", "torchrun", "srun"] = "none"

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes results."""
        return self.rank == 0


def find_ranks(num_processes: int, environment: Mapping[str, str] = os.environ) -> Ranks:
    """Return which of `num_processes` this process is, from what the launcher put into the environment.

    One process is alone, whatever an allocation's variables say. Raises ValueError if the process is no rank of as many
    processes.
    """
    if num_processes == 1:
        return Ranks()
    found = _launched(environment)
    if found.size != num_processes:
        raise ValueError(
            f"trainer.num_processes is {num_processes}, but this process was started as one of {found.size}: "
            "let the workflow or `coread train` start it, or set trainer.num_processes=1"
        )
    return found


def ensure_ranks(num_processes: int, command: Sequence[str]) -> Ranks:
    """Return which rank this process is; where it is none yet, it becomes the launcher of `num_processes` ranks.

    `command` is what started this process and starts each rank. Raises ValueError where as many cannot be started.
    """
    if num_processes == 1:
        return Ranks()
    if _launched(os.environ).size == 1:
        _become_launcher(num_processes, command)
    ranks = find_ranks(num_processes)
    _settle(ranks)
    return ranks


def _launched(environment: Mapping[str, str]) -> Ranks:
    if "TORCHELASTIC_RUN_ID" in environment:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return Ranks(rank, size, int(environment["LOCAL_RANK"]), int(environment["LOCAL_WORLD_SIZE"]), "torchrun")
    # a batch script has SLURM_NTASKS and SLURM_PROCID, too, but is no step; Snakemake's own step has one task
    size = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if size > 1 and "SLURM_STEP_ID" in environment:
        rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        return Ranks(rank, size, local_rank, size // int(environment.get("SLURM_STEP_NUM_NODES", 1)), "srun")
    return Ranks()


def _settle(ranks: Ranks) -> None:
    """Do what a rank needs and a single process does not: end with its launcher, and speak once for all ranks."""
    # the warning signals of a scheduler reach every process of a step; their default is to kill it
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(), ranks.rank), daemon=True).start()
    atexit.register(_tell_usage, ranks.rank)
    if not ranks.is_first:
        logging.getLogger("coread").setLevel(logging.WARNING)


def _end_with(parent: int, rank: int) -> None:
    """Kill this process when its parent is gone: a rank left behind must not train beside the next attempt."""
    polls = 0
    while os.getppid() == parent:
        if polls % USAGE_POLLS == 0:
            _tell_usage(rank)
        polls += 1
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _tell_usage(rank: int) -> None:
    """Write what this rank has used so far where the supervisor asked for it."""
    if USAGE not in os.environ:
        return
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss counts bytes there and kilobytes elsewhere
    # one thread at a time, or an earlier reading could replace the last one; a full disk is no reason to end a training
    with TELLING, contextlib.suppress(OSError):
        used = resource.getrusage(resource.RUSAGE_SELF)
        facts = {"peak_memory_mb": used.ru_maxrss / unit, "cpu_s": used.ru_utime + used.ru_stime}
        folder = Path(os.environ[USAGE])
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".rank{rank}.tmp"
        temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.replace(folder / f"rank{rank}.json")


# ------------------------------------------------------------------------------------------------------------ launching


def _become_launcher(num_processes: int, command: Sequence[str]) -> NoReturn:
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is not None and shutil.which("srun") is not None:
        job = _scontrol("show", "job", job_id)
        os.environ |= _meeting_point(job)
        launcher = srun_command(num_processes, job, command)
    else:
        # torch takes one core for each rank if nobody says how many; a machine of one's own has more
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
        launcher = torchrun_command(num_processes, command)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(launcher[0], launcher)


def torchrun_command(num_processes: int, command: Sequence[str]) -> list[str]:
    """Return the command line that starts the ranks on this machine, over its loopback interface."""
    options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={num_processes}", "--no-python"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *command]


def srun_command(num_processes: int, job: Mapping[str, str], command: Sequence[str]) -> list[str]:
    """Return the command line that starts the ranks as one step of a job, given what Slurm says of the job.

    Everything is explicit, because Snakemake's plugin hides the job's own variables from the rule. Of GPUs nothing is
    said: then every rank sees all that the job has on its node, and takes its own. Raises ValueError if the job was
    granted too few tasks or its nodes cannot share the ranks evenly.
    """
    nodes, tasks = int(job["NumNodes"]), int(job["NumTasks"])
    if tasks < num_processes:
        raise ValueError(
            f"trainer.num_processes is {num_processes}, but job {job['JobId']} was granted {tasks} task(s): "
            f"ask for --ntasks={num_processes}"
        )
    if num_processes % nodes:
        raise ValueError(
            f"trainer.num_processes is {num_processes}, which the {nodes} nodes of job {job['JobId']} cannot share "
            "evenly: ask for another number of nodes"
        )
    options = [
        f"--nodes={nodes}",
        f"--ntasks={num_processes}",
        f"--ntasks-per-node={num_processes // nodes}",
        f"--cpus-per-task={cores if (cores := job.get('CPUs/Task', '')).isdigit() else 1}",  # newer releases say N/A
        "--kill-on-bad-exit=1",  # the others would wait for a dead rank
        "--overlap",  # the step that this command may itself run in holds the same cores
        "--mpi=none",
        "--export=ALL",
    ]
    return ["srun", *options, *command]


def _meeting_point(job: Mapping[str, str]) -> dict[str, str]:
    """Return where the ranks find the first of them, which runs on the node of this process."""
    # the address by which Slurm itself reaches the node; the node's name need not resolve
    alone = int(job["NumNodes"]) == 1
    address = "127.0.0.1" if alone else _scontrol("show", "node", job["BatchHost"])["NodeAddr"]
    with socket.socket() as probe:
        probe.bind(("", 0))
        return {"MASTER_ADDR": address, "MASTER_PORT": str(probe.getsockname()[1])}


def _scontrol(*arguments: str) -> dict[str, str]:
    """Return the fields of one job or node; raises ValueError if Slurm does not answer."""
    command = ["scontrol", *arguments, "--oneliner"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"{' '.join(command)} failed, so no ranks can be started: {error}") from error
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", done.stdout))
