"""A tiny campaign in a copy of the workflow: two experiments on a simulated retina of four cells and 8 x 9 pixels."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
COPIED = ("Snakefile", "rules", "workflow_scripts", "src", "configs", "profiles")

DATA = """\
defaults: [simulated_retina, _self_]
dataset: tiny
sessions: [tiny_0]
height: 8
width: 9
movie: {train_photographs: [camera], test_photographs: [coins], photograph_px: 32}
presentations: {trial_s: 10.0, movie_trials: 4, noise_trials: 2, test_movie_s: 4.0, test_noise_s: 4.0, repeats: 4}
cells: {margin_px: 2.0}
"""
CELLS = {
    "on_sustained": 2,
    "off_sustained": 1,
    "on_transient": 0,
    "off_transient": 0,
    "on_subunit": 1,
    "off_subunit": 0,
    "off_subunit_sustained": 0,
    "on_off": 0,
}
EXPERIMENT = """\
defaults:
  - simulated_retina
  - override data_io: tiny
  - _self_
exp_name: tiny
splits: {n_folds: 2, clip_length: 50}
dataloader: {batch_size: 4}
trainer: {max_epochs: 2}
evaluation: {bootstrap: {n: 20, level: 0.95}}
"""
MODEL = """\
model:
  hidden_channels: [2]
  core: {temporal_kernel_sizes: [5], spatial_kernel_sizes: [3], hidden_padding: false}
"""
BASELINE = EXPERIMENT.replace("- simulated_retina\n", "- simulated_retina_ln\n").replace(
    "tiny\nsplits", "tiny_ln\nsplits"
)
WORKFLOW = {
    "experiments": ["tiny", "tiny_ln"],
    "catalogue": {
        "tiny": {"members": {"cross": {"folds": [0], "seeds": [0, 1]}}, "insilico": ["receptive_fields"]},
        "tiny_ln": {"members": {"cross": {"folds": [0], "seeds": [0]}}},
        "tiny_pairs": {"members": {"paired": [[1, 7]]}},
    },
    "data_dirs": {},
}

Jobs = dict[str, int]


def with_gpus(profile: Path) -> dict[str, Any]:
    """Settings of a profile whose GPU block is uncommented, as a site with GPUs does."""
    lines = profile.read_text().splitlines()
    start = lines.index("# set-resources:")
    end = lines.index("", start)
    lines[start:end] = [line.removeprefix("# ") for line in lines[start:end]]
    settings: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return settings


class Campaign:
    """Two tiny experiments, their settings and a copy of the workflow in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self, workflow: Mapping[str, Any] = WORKFLOW) -> "Campaign":
        """Fabricate the folder; `workflow` is its configs/workflow.yaml."""
        self.root.mkdir(parents=True)
        for name in COPIED:
            source, target = REPOSITORY / name, self.root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, target)
        counts = {"cell_types": {name: {"count": count} for name, count in CELLS.items()}}
        self.write("configs/data_io/tiny.yaml", DATA + yaml.safe_dump(counts))
        self.write("configs/tiny.yaml", EXPERIMENT + MODEL)
        self.write("configs/tiny_ln.yaml", BASELINE)
        self.write("configs/tiny_pairs.yaml", "defaults: [tiny, _self_]\nexp_name: tiny_pairs\n")
        self.write("configs/workflow.yaml", yaml.safe_dump(dict(workflow)))
        return self

    def copy(self, root: Path) -> "Campaign":
        """Return the same state in another folder, times included."""
        shutil.copytree(self.root, root)
        return Campaign(root)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text, f"{name} no longer holds {old!r}"
        self.write(name, text.replace(old, new, 1))

    def start(self, command: list[str], **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def snakemake(self, *arguments: str, **environment: str) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--show-failed-logs", *arguments]
        with self.start(command, **environment) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output[-4000:]
        return output

    def planned(self, *arguments: str, target: str = "all") -> Jobs:
        """Return how many jobs of every rule a dry run plans."""
        table = self.snakemake(target, "-n", *arguments).partition("Job stats:")[2]
        jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
        return {rule: count for rule, count in jobs.items() if rule not in ("total", "all", target)}
