"""What is paid before anything is computed: commands, the plan of the demo, and a training job up to its first step.

    python benchmarks/startup.py [--repeats 5] [--output FILE.csv]

The plan is `snakemake -n all` of the shipped demo in a copy of the workflow where nothing exists. The job is the
script of the workflow that trains a member, on the demo's recordings, which are made before; its phases are told by
the process itself, the first counted from when it was started.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from graph import copy_workflow

EXPERIMENT = "simulated_retina"


def main() -> None:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    parser.add_argument("--first-step", nargs=2, metavar=("FOLDER", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        first_step(Path(arguments.first_step[0]), Path(arguments.first_step[1]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_workflow(folder)
        rows = []
        for _ in range(arguments.repeats):
            rows += [timed("coread --help", ["-m", "coread.cli.main", "--help"], folder)]
            rows += [timed("snakemake -n all", ["-m", "snakemake", "--profile", "profiles/local", "-n", "all"], folder)]
        make_recordings(folder)
        for _ in range(arguments.repeats):
            rows += job_phases(folder)
    table = pd.DataFrame(rows)
    shown = table.groupby("what", sort=False)[["seconds", "cpu_seconds"]].agg(["median", "min", "max"])
    print(shown.round(2).to_string())
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def timed(what: str, command: list[str], folder: Path) -> dict[str, object]:
    """Run Python with arguments and return its seconds; raises SystemExit if it fails."""
    started = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment(folder), stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what} failed:\n" + (folder / "log").read_text()[-3000:])
    return {"what": what, "seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def environment(folder: Path) -> dict[str, str]:
    """Return the variables under which the copy's own code runs."""
    return os.environ | {"PYTHONPATH": str(folder / "src")}


def make_recordings(folder: Path) -> None:
    """Let the workflow make everything that training the demo reads."""
    targets = ["data", f"results/{EXPERIMENT}/config/train.yaml"]
    timed("data", ["-m", "snakemake", "--profile", "profiles/local", *targets], folder)


def job_phases(folder: Path) -> list[dict[str, object]]:
    """Return the seconds of a job until it has imported, has read its recordings, and begins its first step."""
    output = folder / "phases.json"
    timed("job", [str(Path(__file__).resolve()), "--first-step", str(folder), str(output)], folder)
    phases = json.loads(output.read_text())
    rows = [{"what": f"training job: {name}", "seconds": seconds} for name, seconds in phases.items()]
    return [*rows, {"what": "training job: start to first step", "seconds": sum(phases.values())}]


def first_step(folder: Path, output: Path) -> None:
    """Train as the workflow's script does, until the first step, and write the seconds of each phase."""
    import psutil
    import yaml

    started = psutil.Process().create_time()
    from pytorch_lightning import Callback

    from coread.recording import read_recordings
    from coread.training import train

    marks = {"imports": time.time()}

    class Stop(Callback):
        """Ends the process at the first step."""

        def on_train_batch_start(self, *details: object) -> None:
            marks["statistics, model and trainer"] = time.time()
            ends = [started, *marks.values()]
            seconds = [end - begin for begin, end in itertools.pairwise(ends)]
            output.write_text(json.dumps(dict(zip(marks, seconds, strict=True))))
            os._exit(0)

    config = yaml.safe_load((folder / "results" / EXPERIMENT / "config" / "train.yaml").read_text())
    recordings = read_recordings(sorted((folder / "results" / "data" / EXPERIMENT).glob("retina*.h5")))
    marks["reading of recordings"] = time.time()
    train(config, recordings, 0, 0, work_dir=folder / "work", accelerator="cpu", callbacks=[Stop()])


if __name__ == "__main__":
    main()
