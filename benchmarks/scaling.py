"""Time and memory of every stage against the numbers of sessions, neurons and frames, one of them varied at a time.

    python benchmarks/scaling.py [--axes sessions streamed neurons frames] [--output FILE.csv] [--figures FOLDER]

Recordings are fabricated: one movie of 32 x 32 pixels that all sessions see, Poisson responses, a test stimulus with
repeats. Each case is a process of its own that reads, trains one epoch of the demo's model, predicts and scores, and
tells the seconds of each stage, its peak memory and the sizes of what it wrote. `streamed` are sessions whose frames
and responses stay on disk. The exponent e of a row says that it grew as size^e from the row above; a constant cost
(imports, the trainer) pulls it down.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from memory import apart, write_copies

from coread.recording import Recording, Stimulus, write_stimuli

PIXELS = 32
TRIAL_BINS, TEST_BINS, REPEATS = 1000, 300, 10
BUDGET_BYTES = 12e9
BASE = {"sessions": 1, "neurons": 100, "frames": 8000}
AXES = {
    "sessions": [1, 4, 16, 64, 100],
    "streamed": [1, 4, 16],
    "neurons": [10, 100, 1000, 10_000, 50_000],
    "frames": [8000, 32_000, 128_000, 512_000],
}
STAGES = ("read_s", "prepare_s", "step_s", "validate_s", "predict_s", "score_s")
SIZES = ("peak_mb", "disk_mb", "model_mb", "predictions_mb", "scores_mb")


def main() -> None:
    """Measure along the axes and print the table, or measure one case with `--measure`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--sizes", type=int, nargs="+", help="in place of those of the axes")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    parser.add_argument("--figures", type=Path, help="draw time and memory against size there (.png and .pdf)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--budget", type=float, default=BUDGET_BYTES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.budget)))
        return
    rows = []
    for axis in arguments.axes:
        for size in arguments.sizes or AXES[axis]:
            streamed = axis == "streamed"
            case = BASE | {"sessions" if streamed else axis: size}
            rows.append({"axis": axis, "size": size} | of_child(case, 0.0 if streamed else BUDGET_BYTES))
            print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    print(with_exponents(table).to_string(index=False, float_format="%.3g"))
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)
    if arguments.figures is not None:
        draw(table, arguments.figures)


def of_child(case: dict[str, int], budget: float) -> dict[str, float]:
    """Write the recordings of a case and measure it in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        apart(write_sessions, folder, *case.values())
        command = [sys.executable, __file__, "--measure", str(folder), "--budget", str(budget)]
        # freed blocks are given back, so that the peak is that of memory in use
        environment = os.environ | {"PYTHONWARNINGS": "ignore", "MALLOC_MMAP_THRESHOLD_": "131072"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{case} failed:\n{result.stderr[-3000:]}")
        disk = sum(path.stat().st_size for path in folder.glob("*.h5")) / 1e6
        return json.loads(result.stdout.splitlines()[-1]) | {"disk_mb": disk}


def write_sessions(folder: Path, sessions: int, neurons: int, frames: int) -> None:
    """Write a movie and sessions that see it; all have the same responses, which no memory can share."""
    rng = np.random.default_rng(0)
    movies = {
        name: Stimulus(rng.integers(0, 256, (n, 1, PIXELS, PIXELS), dtype=np.uint8), 30.0)
        for name, n in (("movie", frames), ("test", TEST_BINS))
    }
    write_stimuli(movies, folder / "stimuli.h5")
    shown = [("movie", "train", start, TRIAL_BINS, 0) for start in range(0, frames - TRIAL_BINS + 1, TRIAL_BINS)]
    shown += [("test", "test", 0, TEST_BINS, repeat) for repeat in range(REPEATS)]
    trials = pd.DataFrame(
        {
            "stimulus": [name for name, *_ in shown],
            "tier": [tier for _, tier, *_ in shown],
            "repeat": [repeat for *_, repeat in shown],
            "time_order": range(len(shown)),
            "withheld": False,
        }
    )
    lengths = [length for *_, length, _ in shown]
    n_bins = sum(lengths)
    recording = Recording(
        dataset="benchmark",
        session="session_0",
        stimuli=movies,
        trials=trials,
        trial=np.repeat(np.arange(len(shown), dtype=np.int32), lengths),
        frame=np.concatenate([np.arange(start, start + length, dtype=np.int32) for _, _, start, length, _ in shown]),
        responses=rng.poisson(0.3, (n_bins, neurons)).astype(np.float32),
        valid=np.ones(n_bins, bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": range(neurons)}),
    )
    write_copies(recording, sessions, folder)


class Clock:
    """Seconds of the stages of this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, work: Callable[[], Any]) -> Any:
        """Run a stage and keep its seconds."""
        started = time.perf_counter()
        result = work()
        self.seconds[stage] = time.perf_counter() - started
        return result


def measure(folder: Path, budget: float) -> dict[str, float]:
    """Read, train one epoch, predict and score in this process; return seconds, peak memory and sizes of files."""
    from pytorch_lightning import Callback

    from coread.config import compose, stage_slice
    from coread.eval.predictions import predict_member, write_predictions
    from coread.eval.scores import score_experiment, write_scores
    from coread.recording import read_recordings
    from coread.training import train

    marks: dict[str, list[float]] = {"step": [], "validate": []}

    class Watch(Callback):
        """Notes when steps end and how long validation takes."""

        def on_train_start(self, *_: object) -> None:
            marks["start"] = [time.perf_counter()]

        def on_train_batch_end(self, *_: object) -> None:
            marks["step"].append(time.perf_counter())

        def on_validation_start(self, *_: object) -> None:
            marks["validate"].append(time.perf_counter())

        def on_validation_end(self, *_: object) -> None:
            marks["validate"].append(time.perf_counter())

    clock = Clock()
    config = compose("simulated_retina", ["trainer.max_epochs=1"])
    paths = sorted(folder.glob("session_*.h5"))
    recordings = clock("read_s", lambda: read_recordings(paths, memory_budget_bytes=budget))
    started = time.perf_counter()
    member = train(
        stage_slice(config, "train"),
        recordings,
        0,
        0,
        work_dir=folder / "work",
        accelerator="cpu",
        callbacks=[Watch()],
        progress_bar=False,
    )
    steps = np.diff([*marks["start"], *marks["step"]])
    clock.seconds |= {
        "prepare_s": marks["start"][0] - started,
        "step_s": float(np.median(steps)),
        "validate_s": marks["validate"][1] - marks["validate"][0],
    }
    predictions = clock("predict_s", lambda: predict_member(member, recordings, experiment="benchmark"))
    evaluation = stage_slice(config, "evaluate")["evaluation"]
    scores = clock("score_s", lambda: score_experiment(recordings, [predictions], evaluation))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    written = folder / "written"
    written.mkdir()
    member.save(written / "model")
    write_predictions(predictions, written / "predictions")
    write_scores(scores, written / "scores")
    return clock.seconds | {"peak_mb": peak} | {f"{p.name}_mb": p.stat().st_size / 1e6 for p in written.iterdir()}


def with_exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the growth exponent of every stage from the row above."""
    result = table.copy()
    for stage in (*STAGES, *SIZES):
        exponents = []
        for (_, before), (_, row) in zip([(None, None), *table.iterrows()], table.iterrows(), strict=False):
            same = before is not None and before["axis"] == row["axis"]
            exponents.append(
                math.log(row[stage] / before[stage]) / math.log(row["size"] / before["size"]) if same else math.nan
            )
        result.insert(int(result.columns.get_loc(stage)) + 1, f"e_{stage}", exponents)  # type: ignore[arg-type]
    return result


def draw(table: pd.DataFrame, folder: Path) -> None:
    """Draw seconds of the stages, and memory, against every size."""
    from matplotlib.figure import Figure

    from coread.plotting.style import COLORS, FULL_WIDTH_IN, Drawing, paper_style, save_drawing

    folder.mkdir(parents=True, exist_ok=True)
    for axis, rows in table.groupby("axis"):
        with paper_style():
            figure = Figure(figsize=(FULL_WIDTH_IN, 2.6), layout="constrained")
            seconds, memory = figure.subplots(1, 2, width_ratios=(2, 1))
            for stage, color in zip(STAGES, COLORS, strict=False):
                label = stage.removesuffix("_s")
                seconds.plot(rows["size"], rows[stage], color=color, marker="o", markersize=3, label=label)
            seconds.set(xscale="log", yscale="log", xlabel=str(axis), ylabel="time (s)")
            seconds.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
            memory.plot(rows["size"], rows["peak_mb"] / 1000, color=COLORS[0], marker="o", markersize=3)
            memory.set(xlabel=str(axis), ylabel="peak memory (GB)", ylim=(0, None))
            memory.locator_params(axis="x", nbins=3)
            caption = f"Seconds of a job's stages (a training step for one batch) and its peak memory against {axis}."
            save_drawing(Drawing(figure, caption), folder / f"scaling_{axis}")


if __name__ == "__main__":
    main()
