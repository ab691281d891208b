"""A campaign on the cluster as its user runs it: `snakemake --profile slurm ...` with the site's values entered."""

import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from tests.campaign import Campaign, with_gpus
from tests.cluster.slurm_cluster import SlurmCluster

# two experiments x 2 folds x 3 seeds
CROSSED = {"cross": {"folds": [0, 1], "seeds": [0, 1, 2]}}
WORKFLOW = {
    "experiments": ["tiny", "tiny_ln"],
    "catalogue": {
        "tiny": {"members": CROSSED, "insilico": ["receptive_fields"]},
        "tiny_ln": {"members": CROSSED},
        "tiny_pairs": {"members": {"paired": [[1, 7]]}},
    },
    "data_dirs": {},
}
# what the tests do not wait for: a poll every 20 s, files of a network file system
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")
NO_ACCOUNTING = ("--slurm-status-command", "squeue")


@dataclass
class Head:
    """The Snakemake process that drives a campaign, and what it printed."""

    process: "subprocess.Popen[bytes]"
    output: Path

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Return the exit status; raises TimeoutError with the end of the output."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the workflow did not end within {seconds:.0f} s\n{self.text()[-3000:]}") from None

    def stop(self) -> None:
        """End the process and its local jobs, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class SlurmCampaign(Campaign):
    """A tiny campaign that runs on a cluster."""

    def __init__(self, root: Path, cluster: SlurmCluster) -> None:
        super().__init__(root)
        self.cluster = cluster
        self.heads: list[Head] = []

    def prepare(self, workflow: Mapping[str, Any] = WORKFLOW, *, epochs: int = 2) -> "SlurmCampaign":
        """Fabricate the folder; a core + readout trains for exactly `epochs` epochs, a linear-nonlinear model for 2."""
        super().prepare(workflow)
        length = f"trainer: {{max_epochs: {epochs}}}\ntraining_callbacks: {{early_stopping: {{patience: {epochs}}}}}"
        self.replace("configs/tiny.yaml", "trainer: {max_epochs: 2}", length)
        self.enter_site({"train_member": {"runtime": "10 * 2 ** (attempt - 1)"}})
        return self

    def prepare_members(self, *, epochs: int) -> "SlurmCampaign":
        """Prepare the campaign and build what the members of fold 0 start from: recordings and averages."""
        self.prepare(epochs=epochs)
        self.snakemake("data", *(f"results/{name}/fold0/sta/tiny_0.h5" for name in ("tiny", "tiny_ln")))
        return self

    def copy(self, root: Path) -> "SlurmCampaign":
        """Return the same state in another folder, times included."""
        shutil.copytree(self.root, root)
        copied = SlurmCampaign(root, self.cluster)
        shutil.copytree(self._user_folder, copied._user_folder)
        return copied

    def enter_site(self, resources: Mapping[str, Mapping[str, Any]]) -> None:
        """Enter a site's values in the profile: its GPU block uncommented, then `resources` of single rules.

        A resource that is None is taken out.
        """
        settings = with_gpus(self.root / "profiles/slurm/config.v9+.yaml")
        for rule, values in resources.items():
            chosen = settings["set-resources"].get(rule, {}) | values
            settings["set-resources"][rule] = {name: value for name, value in chosen.items() if value is not None}
        folder = self._user_folder / "snakemake" / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.v9+.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    @property
    def _user_folder(self) -> Path:
        return self.root.parent / f"{self.root.name}-user"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the user who runs the campaign."""
        return {
            **self.cluster.environment,
            "XDG_CONFIG_HOME": str(self._user_folder),
            "PYTHONPATH": str(self.root / "src"),
            "OMP_NUM_THREADS": "1",
        }

    # ------------------------------------------------------------------------------------------------------- the head

    def launch(self, *arguments: str) -> Head:
        """Start `snakemake --profile slurm ...` in the background."""
        output = self.root.parent / f"{self.root.name}-head{len(self.heads)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*self.cluster.prefix, *_command(arguments)],
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.heads.append(Head(process, output))
        return self.heads[-1]

    def submit_head(self, *arguments: str) -> str:
        """Submit `snakemake --profile slurm ...` as a job, which prints to head.out, and return the job's id."""
        submit = ("sbatch", "--parsable", "-p", "cpu", "-t", "60", "--mem", "1000", "-o", "head.out")
        command = [*self.cluster.prefix, *submit, "--wrap", shlex.join(_command(arguments))]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def finish(self, *arguments: str, seconds: float = 900) -> Head:
        """Run `snakemake --profile slurm ...` to its end, which must be a success."""
        head = self.launch(*arguments)
        assert head.wait(seconds) == 0, head.text()[-4000:]
        return head

    def close(self) -> None:
        """End every head that still runs."""
        for head in self.heads:
            head.stop()

    # --------------------------------------------------------------------------------------------------- its attempts

    def attempts(self, job: str) -> list[dict[str, Any]]:
        """Attempts of a job in their order: the start record, updated by the end record where there is one."""
        path = self.root / "logs" / f"{job}.attempts.jsonl"
        found: dict[int, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            record = json.loads(line)
            found.setdefault(record["attempt"], {}).update(record)
        return [found[number] for number in sorted(found)]

    def all_attempts(self) -> dict[str, list[dict[str, Any]]]:
        """Attempts of every job that had one."""
        logs = self.root / "logs"
        jobs = [
            path.relative_to(logs).as_posix().removesuffix(".attempts.jsonl") for path in logs.rglob("*.attempts.jsonl")
        ]
        return {job: self.attempts(job) for job in sorted(jobs)}

    def wait_for_attempt(self, job: str, number: int, *, seconds: float = 400) -> dict[str, Any]:
        """Return the record of an attempt once it has started."""
        self._wait_for(f"attempt {number} of {job}", lambda: len(self.attempts(job)) >= number, seconds)
        return self.attempts(job)[number - 1]

    def wait_for_end(self, job: str, number: int, *, seconds: float = 400) -> dict[str, Any]:
        """Return the record of an attempt once it has ended."""
        ended = lambda: len(self.attempts(job)) >= number and "ended" in self.attempts(job)[number - 1]  # noqa: E731
        self._wait_for(f"the end of attempt {number} of {job}", ended, seconds)
        return self.attempts(job)[number - 1]

    def wait_for_epoch(self, member: str, number: int = 1, *, epoch: int = 3, seconds: float = 400) -> dict[str, Any]:
        """Return the record of a training attempt that has finished some epochs and still runs."""
        job = f"train_member/{member}"
        record = self.wait_for_attempt(job, number, seconds=seconds)
        log = self.root / record["log"]
        self._wait_for(f"epoch {epoch} of {job}", lambda: log.read_text().count("\nepoch ") >= epoch, seconds)
        assert "ended" not in self.attempts(job)[number - 1], f"{job} ended before the test could act"
        return record

    def log(self, job: str, number: int) -> str:
        """What an attempt printed."""
        return (self.root / self.attempts(job)[number - 1]["log"]).read_text()

    def trainers(self, member: str) -> list[psutil.Process]:
        """Running processes that train a member; zombies are none."""
        output = f"results/{member}/model.ckpt"
        found = []
        for process in psutil.process_iter():
            try:
                command, folder, status = process.cmdline(), process.cwd(), process.status()
            except psutil.Error:
                continue
            # the supervisor's own command line repeats the trainer's after `--`
            trains = "workflow_scripts/train.py" in command and output in command and "--" not in command
            if trains and folder == str(self.root) and status != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def submissions(self) -> dict[str, dict[str, str]]:
        """What SLURM knows of every job that this campaign submitted: job id -> its fields."""
        jobs = self.cluster.jobs().items()
        return {job: fields for job, fields in jobs if fields["WorkDir"] == str(self.root)}

    def _wait_for(self, what: str, condition: Callable[[], Any], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition():
            head = self.heads[-1]
            if head.process.poll() is not None:
                raise AssertionError(f"{what}: the workflow ended before\n{head.text()[-3000:]}")
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{head.text()[-3000:]}")
            time.sleep(0.2)

    # ---------------------------------------------------------------------------------------------------- its members

    def train_uninterrupted(self, member: str) -> Path:
        """Train a member once more, here and in one go, and return its model file."""
        experiment, fold, seed = member.split("/")
        model = self.root / "uninterrupted" / member / "model.ckpt"
        dataset = "results/data/tiny/tiny_0"
        command = [sys.executable, "workflow_scripts/train.py", "--config", f"results/{experiment}/config/train.yaml"]
        command += ["--recordings", f"{dataset}.h5", "--memory-mb", "4000"]
        command += ["--fold", fold.removeprefix("fold"), "--seed", seed.removeprefix("seed")]
        command += ["--log-dir", str(model.parent / "log"), "--output", str(model)]
        shutil.rmtree(model.parent, ignore_errors=True)
        with self.start(command) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "resuming" not in output
        return model

    def assert_equals_uninterrupted(self, member: str) -> None:
        """A member has, bit for bit, the weights and learning curve of one that was trained in one go."""
        model = self.root / "results" / member / "model.ckpt"
        reference = self.train_uninterrupted(member)
        weights, expected = (torch.load(path, weights_only=True)["state_dict"] for path in (model, reference))
        assert weights.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(weights[name], values), f"{member}: {name} differs"
        curve, expected_curve = (
            [line.rsplit(",", 1)[0] for line in path.with_name("history.csv").read_text().splitlines()]
            for path in (model, reference)
        )
        assert curve == expected_curve


def _command(arguments: Sequence[str]) -> list[str]:
    snakemake = Path(sys.executable).with_name("snakemake")
    return [str(snakemake), "--profile", "slurm", *arguments, *NO_ACCOUNTING, *QUICK, "--set-threads", "train_member=1"]


def seconds_of(moment: str) -> float:
    """Seconds since the epoch of a record's time."""
    return datetime.fromisoformat(moment).timestamp()


def assert_one_after_another(attempts: list[dict[str, Any]]) -> None:
    """No attempt of a job starts before the one before it has ended, and every one that was killed left its record."""
    for earlier, later in itertools.pairwise(attempts):
        assert "ended" in earlier, f"attempt {earlier['attempt']} has no end"
        assert seconds_of(earlier["ended"]) <= seconds_of(later["started"]), (earlier, later)
