"""Time and memory of planning a campaign, and the head's time per job that it hands to SLURM, against their numbers.

    python benchmarks/graph.py [--members 40 200 1000 2000] [--finished 40 200] [--submissions 50 200]
                               [--sessions 10 100 1000] [--output FILE.csv] [--figures FOLDER]

Campaigns are fabricated in a temporary folder: experiments of 8 folds x 5 seeds on the shipped simulated retina of two
sessions, every fourth on the linear-nonlinear baseline, or one experiment of as many sessions as asked for.
`from nothing` is `snakemake -n` where nothing exists, `finished` where every output exists with its record.
Submissions are members sent to the queue on hold, so that they load no node; what lies between them is told by the
scheduler's clock, then they are cancelled.
"""

import argparse
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
COPIED = ("Snakefile", "rules", "workflow_scripts", "src", "configs", "profiles")
N_FOLDS, N_SEEDS = 8, 5
SESSIONS = ("retina_0", "retina_1")
SUBMISSION_LIMIT_S = 20.0  # per member; a slower head has failed
SUBMITTED = re.compile(r"has been submitted with SLURM jobid '?(\d+)")


class Plan(NamedTuple):
    """One dry run."""

    state: str
    members: int
    sessions: int
    jobs: dict[str, int]  # those to run, by rule
    seconds: float
    cpu_s: float  # what a busy machine does not change much
    peak_mb: float


def copy_workflow(folder: Path) -> None:
    """Copy what the workflow consists of into a folder."""
    for name in COPIED:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, folder / name)


def fabricate(
    folder: Path,
    n_experiments: int,
    n_folds: int = N_FOLDS,
    n_seeds: int = N_SEEDS,
    sessions: Sequence[str] = SESSIONS,
) -> list[str]:
    """Write a workflow of experiments with `n_folds` x `n_seeds` members each to a new folder; return their names."""
    folder.mkdir(parents=True)
    copy_workflow(folder)
    catalogue = {}
    for index in range(n_experiments):
        name, base = f"variant_{index}", "simulated_retina_ln" if index % 4 == 3 else "simulated_retina"
        settings = {"splits": {"n_folds": n_folds}, "trainer": {"max_epochs": index + 1}}
        outer = {"defaults": [base, "_self_"], "exp_name": name, **settings, "data_io": {"sessions": list(sessions)}}
        (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(outer, sort_keys=False))
        members = {"cross": {"folds": list(range(n_folds)), "seeds": list(range(n_seeds))}}
        catalogue[name] = {"members": members, "insilico": ["receptive_fields"]}
    workflow = {"experiments": list(catalogue), "catalogue": catalogue, "data_dirs": {}}
    (folder / "configs" / "workflow.yaml").write_text(yaml.safe_dump(workflow))
    return list(catalogue)


def plan(
    folder: Path, state: str, members: int, targets: Sequence[str] = ("all",), n_sessions: int = len(SESSIONS)
) -> tuple[Plan, str]:
    """Return what `snakemake -n` of a folder plans and takes, with all that it printed; raises RuntimeError."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = _start(folder, "-n", "--cores", "2", *targets, output=output)
        _, status, usage = os.wait4(process.pid, 0)  # peak memory of this child alone
        seconds = time.monotonic() - started
        output.seek(0)
        text = output.read()
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the dry run of {members} members failed:\n{text[-3000:]}")
    table = text.rpartition("Job stats:")[2]
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE) if rule != "total"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak_mb = usage.ru_maxrss * unit / 1e6
    return Plan(state, members, n_sessions, jobs, seconds, usage.ru_utime + usage.ru_stime, peak_mb), text


def finish(folder: Path, targets: Sequence[str] = ("all",)) -> None:
    """Make the targets of a folder look finished: empty outputs, and Snakemake's record of each."""
    _, text = plan(folder, "", 0, targets)
    for line in re.findall(r"^ *output: (.+)$", text, re.MULTILINE):
        for path in (folder / name for name in line.split(", ")):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix:
                path.touch()
            else:
                path.mkdir(exist_ok=True)
    with tempfile.TemporaryFile("w+") as output:
        process = _start(folder, "--touch", "--cores", "2", *targets, output=output)
        if process.wait():
            output.seek(0)
            raise RuntimeError(f"snakemake --touch failed:\n{output.read()[-3000:]}")


def cluster() -> str | None:
    """Return the name of the SLURM cluster that answers, None if none does."""
    if shutil.which("sbatch") is None:
        return None
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return found[1] if found and done.returncode == 0 else None


def time_submissions(folder: Path, count: int) -> float:
    """Return the seconds between jobs as the head submits members of a new campaign on hold; they are cancelled.

    Raises RuntimeError where Snakemake ends before it has submitted all.
    """
    experiments = fabricate(folder, math.ceil(count / (N_FOLDS * N_SEEDS)))
    averages = [
        f"results/{name}/fold{fold}/sta/{session}.h5"
        for name, fold, session in product(experiments, range(N_FOLDS), SESSIONS)
    ]
    finish(folder, ["data", *(f"results/{name}/config/train.yaml" for name in experiments), *averages])
    members = [(name, fold, seed) for name in experiments for fold in range(N_FOLDS) for seed in range(N_SEEDS)]
    models = [f"results/{name}/fold{fold}/seed{seed}/model.ckpt" for name, fold, seed in members[:count]]
    on_hold = ["--set-resources", "train_member:slurm_extra='--hold'"]
    process = _start(folder, "--profile", "profiles/slurm", "--jobs", str(count), *on_hold, "--", *models)
    patience = threading.Timer(SUBMISSION_LIMIT_S * count, process.send_signal, [signal.SIGINT])
    patience.start()
    ids, lines = [], []
    try:
        for line in process.stdout or ():
            lines.append(line)
            if found := SUBMITTED.search(line):
                ids.append(found[1])
            if len(ids) == count:
                break
        seconds = _seconds_between_submissions(ids)
    finally:
        patience.cancel()
        process.send_signal(signal.SIGINT)  # Snakemake cancels what it submitted
        process.communicate(timeout=300)
        subprocess.run(["scancel", *ids], capture_output=True, check=False)
    if len(ids) < count:
        raise RuntimeError(f"{len(ids)} of {count} members were submitted:\n{''.join(lines)[-3000:]}")
    return seconds


def _seconds_between_submissions(ids: Sequence[str]) -> float:
    """Return the mean by the scheduler's clock, which tells whole seconds; Snakemake's lines come late and together."""
    command = ["squeue", "--noheader", "--format=%V", f"--jobs={','.join(ids)}"]
    times = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    first, last = (datetime.fromisoformat(time) for time in (min(times), max(times)))
    return (last - first).total_seconds() / (len(ids) - 1)


def plans_table(plans: Sequence[Plan]) -> str:
    """Return the dry runs; the exponent e of a row says that CPU time grew as size^e from the row above it."""
    lines = [
        "| `snakemake -n` | members | sessions | jobs | seconds | CPU s | CPU ms per job | peak MB | growth exponent |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for before, case in zip([None, *plans], plans, strict=False):
        jobs, exponent = sum(case.jobs.values()), ""
        per_job = f"{1000 * case.cpu_s / jobs:.1f}" if jobs else ""
        if before is not None and before.state == case.state:
            growth = case.members * case.sessions / (before.members * before.sessions)
            exponent = f"{math.log(case.cpu_s / before.cpu_s) / math.log(growth):.2f}"
        lines.append(
            f"| {case.state} | {case.members} | {case.sessions} | {jobs} | {case.seconds:.1f} | {case.cpu_s:.1f} "
            f"| {per_job} | {case.peak_mb:.0f} | {exponent} |"
        )
    return "\n".join(lines)


def draw(plans: Sequence[Plan], folder: Path) -> None:
    """Draw seconds and memory of the dry runs from nothing against members, and against sessions."""
    from matplotlib.figure import Figure

    from coread.plotting.style import COLORS, FULL_WIDTH_IN, Drawing, paper_style, save_drawing

    table = pd.DataFrame(plans)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.4), layout="constrained")
        panels = figure.subplots(1, 4)
        for pair, state, size in ((panels[:2], "from nothing", "members"), (panels[2:], "one experiment", "sessions")):
            rows = table[table["state"] == state]
            for panel, values, label in (
                (pair[0], rows["seconds"], "time (s)"),
                (pair[1], rows["peak_mb"], "peak memory (MB)"),
            ):
                panel.plot(rows[size], values, color=COLORS[0], marker="o", markersize=3)
                panel.set(xlabel=size, ylabel=label, ylim=(0, None))
                panel.locator_params(axis="x", nbins=3)
    caption = "Planning with `snakemake -n all`: members of two sessions, and sessions of one experiment of 40 members."
    save_drawing(Drawing(figure, caption), folder / "scaling_members")


def _start(folder: Path, *arguments: str, output: object = subprocess.PIPE) -> "subprocess.Popen[str]":
    """Start Snakemake in a folder; what it says goes to one stream."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "snakemake", *arguments]
    streams = {"stdout": output, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams)  # type: ignore[call-overload]


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="*", default=[40, 200, 1000, 2000], help="multiples of 40")
    parser.add_argument("--finished", type=int, nargs="*", default=[40, 200], help="the same, of finished campaigns")
    parser.add_argument(
        "--sessions", type=int, nargs="*", default=[10, 100, 1000], help="of one experiment from nothing"
    )
    parser.add_argument("--submissions", type=int, nargs="*", default=[50, 200], help="members sent to SLURM")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    parser.add_argument("--figures", type=Path, help="draw time and memory of the dry runs there (.png and .pdf)")
    arguments = parser.parse_args()
    # a shell starts background jobs, and so what they start, deaf to what ends the submissions
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plans, submitted = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for state, sizes in (("from nothing", arguments.members), ("finished", arguments.finished)):
            for size in sizes:
                folder = Path(temporary, f"{state}_{size}".replace(" ", "_"))
                fabricate(folder, size // (N_FOLDS * N_SEEDS))
                if state == "finished":
                    finish(folder)
                plans.append(plan(folder, state, size)[0])
                shutil.rmtree(folder)
        for size in arguments.sessions:
            folder = Path(temporary, f"sessions_{size}")
            fabricate(folder, 1, sessions=[f"retina_{index}" for index in range(size)])
            plans.append(plan(folder, "one experiment", N_FOLDS * N_SEEDS, n_sessions=size)[0])
            shutil.rmtree(folder)
        if plans:
            print(f"{plans_table(plans)}\n", flush=True)
            if arguments.figures is not None:
                draw(plans, arguments.figures)
        if (name := cluster()) is None:
            print("time per submitted job: left out, no SLURM cluster answers (sbatch and scontrol)")
        else:
            print(f"SLURM cluster {name}; {os.cpu_count()} cores here, which its daemons share if they run here\n")
            print("| members submitted | ms per job |\n|---:|---:|")
            for count in arguments.submissions:
                seconds = time_submissions(Path(temporary, f"submitted_{count}"), count)
                print(f"| {count} | {1000 * seconds:.0f} |", flush=True)
                submitted.append(
                    {
                        "state": "submitted",
                        "members": count,
                        "sessions": len(SESSIONS),
                        "seconds_per_submission": seconds,
                    }
                )
    if arguments.output is not None:
        rows = [*(case._asdict() | {"jobs": sum(case.jobs.values())} for case in plans), *submitted]
        pd.DataFrame(rows).to_csv(arguments.output, index=False)


if __name__ == "__main__":
    main()
