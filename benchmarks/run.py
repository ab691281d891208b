"""Every comparison, one after the other: measured values go to results.csv, the page made from them is results.md.

    python benchmarks/run.py [NAME ...] [--liu-2017 DIR] [--device cuda]

Run it on an otherwise idle machine. Without names all run that can: the environments of the peers are made where they
are missing, and what needs a data set that is not here is left out, with a line that says so.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from coread.provenance import write_text
from results import HERE, PAGE, Benchmark, known, page, record, tidy

SECONDS = {"seconds": "s", "cpu_seconds": "s"}
TRAINED = {
    "test_correlation": "",
    "seconds_to_chosen": "s",
    "seconds_to_the_peers_score": "s",
    "seconds": "s",
    "peak_mb": "MB",
}
BENCHMARKS = {
    "tutorial": Benchmark(
        "Training to accuracy on the tutorial's data beside openretina 1.1.1, three seeds",
        ("openretina/compare.py", "tutorial", "--seeds", "0", "1", "2"),
        TRAINED,
        peer="openretina",
    ),
    "liu_2017": Benchmark(
        "Training to accuracy on Liu et al. 2017 beside openretina 1.1.1, one seed",
        ("openretina/compare.py", "liu_2017"),
        TRAINED,
        peer="openretina",
    ),
    "core_step": Benchmark(
        "A training step of published cores beside openretina 1.1.1, same weights and function",
        ("openretina/core_step.py", "--repeats", "3"),
        {"seconds_per_step": "s", "frames": "", "gflop": "GFLOP", "gflop_per_s": "GFLOP/s", "peak_mb": "MB"},
        ("case",),
        peer="openretina",
        takes_device=True,
    ),
    "optimize": Benchmark(
        "Most exciting stimuli of so many neurons beside openretina's loop over neurons, same weights and steps",
        (
            *("openretina/optimize.py", "tutorial", "--neurons", "1", "16", "64", "256"),
            *("--figure", "docs/figures/optimization_time"),
        ),
        SECONDS | {"response": "", "peak_mb": "MB"},
        ("neurons",),
        peer="openretina",
        takes_device=True,
    ),
    "sensorium_epoch": Benchmark(
        "An epoch of SENSORIUM models beside neuralpredictors 0.3.0, 8000 neurons, 4500 images, batches of 128",
        ("neuralpredictors/compare.py", "run"),
        {"seconds_per_batch": "s", "epoch_seconds": "s", "cpu_seconds": "s", "peak_gb": "GB"},
        ("model",),
        peer="neuralpredictors",
    ),
    "regressors": Benchmark(
        "Regressors of a session of 8000 neurons and 6000 trials beside two steps as they were published",
        ("regressors.py",),
        SECONDS | {"peak_gb": "GB"},
        ("step",),
    ),
    "pack": Benchmark(
        "A SENSORIUM session of 8000 neurons and 6000 trials from its archive to a recording",
        ("pack.py",),
        {"seconds": "s", "peak_gb": "GB"},
        ("script",),
    ),
    "startup": Benchmark(
        "What is paid before anything is computed",
        ("startup.py", "--repeats", "5"),
        SECONDS,
        ("what",),
    ),
    "memory": Benchmark(
        "Peak memory of training against the number of sessions that see one movie",
        ("memory.py",),
        {"peak_mb": "MB"},
        ("mode", "n_sessions"),
    ),
    "data_memory": Benchmark(
        "Loaders of all sessions and a batch of each beside openretina 1.1.1, on recordings of published sizes",
        ("openretina/data_memory.py",),
        {"seconds": "s", "peak_mb": "MB"},
        ("case",),
        peer="openretina",
    ),
    "scaling": Benchmark(
        "Seconds of a job's stages and its peak memory against sessions, neurons and frames, one at a time",
        ("scaling.py", "--figures", "docs/figures"),
        {
            "read_s": "s",
            "prepare_s": "s",
            "step_s": "s",
            "validate_s": "s",
            "predict_s": "s",
            "score_s": "s",
            "peak_mb": "MB",
            "disk_mb": "MB",
            "model_mb": "MB",
            "predictions_mb": "MB",
            "scores_mb": "MB",
        },
        ("axis", "size"),
    ),
    "packed": Benchmark(
        "Members of an ensemble trained together in one process beside the same members one after the other",
        ("packed.py", "--members", "1", "3", "--epochs", "1"),
        SECONDS | {"peak_mb": "MB"},
        ("members",),
        takes_device=True,
    ),
    "graph": Benchmark(
        "Planning a campaign of so many members and sessions, and submitting it where a cluster answers",
        ("graph.py", "--figures", "docs/figures"),
        {"jobs": "", "seconds": "s", "cpu_s": "s", "peak_mb": "MB", "seconds_per_submission": "s"},
        ("state", "members", "sessions"),
    ),
}


def main() -> None:
    """Run benchmarks, keep their values, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--liu-2017", type=Path, metavar="DIR", help="its HDF5 directory")
    parser.add_argument(
        "--device", default="cpu", help="of steps and optimisations; trainings take a GPU if they see one"
    )
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {unknown}, known: {list(BENCHMARKS)}")
    for name in arguments.names or BENCHMARKS:
        more = ["--device", arguments.device] if BENCHMARKS[name].takes_device else []
        if name == "liu_2017":
            if arguments.liu_2017 is None:
                print(f"{name}: left out, its data are not here (--liu-2017 DIR)", flush=True)
                continue
            more += ["--data", str(arguments.liu_2017)]
        print(f"{name}: {BENCHMARKS[name].title}", flush=True)
        record(run(name, more))
        write_text(PAGE, page(known(), BENCHMARKS))  # after each, so that nothing is lost where a later one fails
    print(PAGE)


def run(name: str, more: list[str]) -> pd.DataFrame:
    """Run one benchmark, making the environment of its peer first where it is missing, and return its values."""
    benchmark = BENCHMARKS[name]
    if benchmark.peer is not None and not (HERE.parent / f".venv-{benchmark.peer}").exists():
        subprocess.run([sys.executable, str(HERE / benchmark.peer / "compare.py"), "install"], check=True)
    script, *given = benchmark.command
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "table.csv"
        command = [sys.executable, str(HERE / script), *given, *more, "--output", str(output)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{name} failed")
        return tidy(pd.read_csv(output), name, benchmark)


if __name__ == "__main__":
    main()
