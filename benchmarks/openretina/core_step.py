"""A training step of the published cores beside openretina 1.1.1: same weights, same function, same machine.

    python benchmarks/openretina/core_step.py [--cases low_res ...] [--repeats 3] [--device cpu] [--output FILE.csv]

The peer's environment is that of compare.py (`python benchmarks/openretina/compare.py install`). A step is forward, a
loss, backward and AdamW; the systems take turns, each run a process of its own that tells the median over its steps.
`long` is the same network on windows of 150 frames, in which the lag is paid once; frames are those that come out.
Operations are those of the convolutions and matrix products of a step (`torch.utils.flop_counter`). The core's output
before the first step must be that of the peer, or the comparison fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-openretina"
SYSTEMS = ("coread", "openretina")
LOW_RES: dict[str, Any] = {
    "shape": [32, 2, 50, 18, 16],
    "core": {
        "channels": [2, 16, 32],
        "temporal_kernel_sizes": [21, 11],
        "spatial_kernel_sizes": [11, 5],
        "hidden_padding": [0, 2, 2],
    },
}
UNPADDED = {"hidden_padding": False}  # "separable" of the peer pads space twice
CASES: dict[str, dict[str, Any]] = {
    "low_res": LOW_RES | {"steps": 12},
    "long": LOW_RES | {"steps": 12, "shape": [8, 2, 150, 18, 16]},
    "separable": LOW_RES | {"steps": 12, "core": LOW_RES["core"] | UNPADDED | {"convolution_type": "separable"}},
    "high_res": {
        "steps": 3,
        "shape": [4, 2, 50, 72, 64],
        "core": {
            "channels": [2, 16, 16, 16, 16],
            "temporal_kernel_sizes": [13, 11, 5, 5],
            "spatial_kernel_sizes": [15, 15, 7, 7],
            **UNPADDED,
        },
    },
}
TOLERANCE = 1e-4  # of the largest output; float32, another order of summation


def main() -> None:
    """Run both systems in turns and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    rows = []
    for case in arguments.cases:
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as folder:
                rows += compare(case, arguments.device, Path(folder))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.4g"))
    medians = table.groupby(["system", "case"])[["seconds_per_step", "gflop", "peak_mb"]].median()
    print("openretina / coread")
    print((medians.loc["openretina"] / medians.loc["coread"]).round(2).to_string())
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def compare(case: str, device: str, folder: Path) -> list[dict[str, Any]]:
    """Return one row of each system; raises SystemExit if they do not compute the same."""
    rows = [{"system": system, "case": case} | run(system, case, device, folder) for system in SYSTEMS]
    outputs = [np.load(folder / f"{system}.npy", allow_pickle=False) for system in SYSTEMS]
    difference = np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[1]).max()
    if not difference < TOLERANCE:
        raise SystemExit(f"{case}: the systems' outputs differ by {difference:.2g} of the largest")
    return [row | {"largest_difference": float(difference)} for row in rows]


def run(system: str, case: str, device: str, folder: Path) -> dict[str, Any]:
    """Run one system in a process of its own and return what it measured."""
    python = sys.executable if system == "coread" else str(PEER / "bin" / "python")
    job = CASES[case] | {"system": system, "device": device, "folder": str(folder)}
    (folder / "job.json").write_text(json.dumps(job))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, str(HERE / "core_step_program.py"), str(folder / "job.json")],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{system} {case} failed:\n" + (folder / "log").read_text()[-3000:])
    return json.loads((folder / "measured.json").read_text()) | {"peak_mb": usage.ru_maxrss / 1024}


if __name__ == "__main__":
    main()
