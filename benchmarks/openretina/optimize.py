"""Most exciting stimuli, side by side with the per-neuron loop of openretina 1.1.1: same weights, steps and machine.

    python benchmarks/openretina/optimize.py tutorial [--neurons 1 4 16 64 256] [--figure DIR/FILE] [--output FILE.csv]

The peer's environment is that of compare.py (`python benchmarks/openretina/compare.py install`). A model with weights
drawn at random is made and saved by the peer and read by both. Every run is a process of its own; the systems take
turns. Seconds count the optimisation alone, after one neuron to warm up; on a machine with other work, compare the
seconds of the processor. Both take the same steps from the same noise:
gradient ascent, then the published norm and limits. `response` is what our whole model responds to the stimuli found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-openretina"
SYSTEMS = ("openretina", "coread")
# architectures of published configurations: the HDF5 tutorial, Hoefling 2024 at low and at high resolution
CASES: dict[str, dict[str, Any]] = {
    "tutorial": {
        "in_shape": [3, 100, 16, 8],
        "hidden_channels": [8, 8, 8],
        "core": {"temporal_kernel_sizes": [8, 8, 8], "spatial_kernel_sizes": [8, 8, 8], "hidden_padding": True},
    },
    "low_res": {
        "in_shape": [2, 150, 18, 16],
        "hidden_channels": [16, 16],
        "core": {"temporal_kernel_sizes": [21, 11], "spatial_kernel_sizes": [11, 5], "hidden_padding": [0, 2, 2]},
    },
    "high_res": {
        "in_shape": [2, 150, 72, 64],
        "hidden_channels": [16, 16, 16, 16],
        "core": {
            "temporal_kernel_sizes": [13, 11, 5, 5],
            "spatial_kernel_sizes": [15, 15, 7, 7],
            "hidden_padding": [0, 5, 5],
        },
    },
}
STEPS: dict[str, Any] = {
    "n_frames": 50,
    "window": [10, 10],  # first bin of the response and number of bins that are averaged
    "n_steps": 20,
    "lr": 100.0,
    "norm": 30.0,
    "limits": [-0.654, 6.269],
    "noise_std": 0.1,
    "seed": 0,
}


def main() -> None:
    """Run both systems and print seconds, memory and responses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("--neurons", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mask-log-var", type=float, default=-0.6, help="width of the readouts' masks")
    parser.add_argument("--figure", type=Path, help="draw time against number of neurons there (.png and .pdf)")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = {**CASES[arguments.case], **STEPS, "device": arguments.device, "mask_log_var": arguments.mask_log_var}
        job |= {"n_model_neurons": max(arguments.neurons), "checkpoint": str(Path(folder) / "model.ckpt")}
        run("openretina", job | {"action": "make"}, Path(folder))
        rows = [
            run(system, job | {"action": "optimize", "n_neurons": count}, Path(folder))
            for count in arguments.neurons
            for system in arguments.systems
        ]
    table = summarise(pd.DataFrame(rows))
    print(table.to_string(index=False, float_format="%.4g"))
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)
    if arguments.figure is not None:
        draw(table, arguments.case, arguments.figure)


def run(system: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one system in a process of its own and return its row."""
    output = folder / "row.json"
    path = folder / "job.json"
    path.write_text(json.dumps(job | {"output": str(output)}))
    python = str(PEER / "bin" / "python") if system == "openretina" else sys.executable
    with (folder / "log.txt").open("wb") as log:
        command = [python, str(HERE / f"optimize_{system}.py"), str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{system} failed:\n" + (folder / "log.txt").read_text()[-3000:])
    if job["action"] == "make":
        return {}
    row = {"system": system, "neurons": job["n_neurons"], "seconds": 0.0} | json.loads(output.read_text())
    if system == "openretina":  # its stimuli are judged by our model
        path.write_text(json.dumps(job | {"action": "judge", "output": str(output)}))
        subprocess.run([sys.executable, str(HERE / "optimize_coread.py"), str(path)], check=True)
        row |= json.loads(output.read_text())
    return row | {"peak_mb": usage.ru_maxrss / 1024}


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with seconds and memory per neuron, and how many times as fast as the peer a row is."""
    table = table.assign(seconds_per_neuron=table["seconds"] / table["neurons"])
    least = table.groupby("system")["peak_mb"].transform("min")
    table["mb_per_neuron"] = (table["peak_mb"] - least) / table["neurons"]
    peer = table[table["system"] == "openretina"].set_index("neurons")
    for ratio, seconds in (("times_as_fast", "seconds"), ("times_as_fast_cpu", "cpu_seconds")):
        table[ratio] = table["neurons"].map(peer[seconds]) / table[seconds]
    return table


def draw(table: pd.DataFrame, case: str, path: Path) -> None:
    """Draw time against number of neurons."""
    from matplotlib.figure import Figure

    from coread.plotting.style import COLORS, HALF_WIDTH_IN, Drawing, paper_style, save_drawing

    with paper_style():
        figure = Figure(figsize=(HALF_WIDTH_IN, 2.4), layout="constrained")
        axes = figure.subplots()
        for (system, rows), color, marker in zip(table.groupby("system"), COLORS, "os", strict=False):
            axes.plot(rows["neurons"], rows["seconds"], color=color, marker=marker, markersize=4, label=system)
        axes.set(xscale="log", yscale="log", xlabel="neurons", ylabel="time (s)")
        axes.legend()
    caption = (
        f"Time to optimise stimuli of so many neurons, {STEPS['n_steps']} steps each, on the architecture "
        f"{case!r} with the same weights: openretina 1.1.1 one neuron after the other, coread in batches."
    )
    save_drawing(Drawing(figure, caption), path)


if __name__ == "__main__":
    main()
