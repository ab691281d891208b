"""Steps of the memory proof of Hoefling et al. 2024 at high resolution, each in a process of its own.

    build RAW OUT           the movie and three sessions, as the workflow's jobs do it
    train OUT N BUDGET_MB   N sessions in memory (those three over and over) and one batch of windows
Prints the peak of resident memory in MB, and what it was after the imports.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from coread.config import compose_data_io

NAMES = ["session_0", "session_1", "session_2"]


def peak_mb() -> float:
    # Linux hands the peak of the process that started this one down in ru_maxrss; VmHWM begins anew with the program
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("the peak of resident memory is read from Linux's /proc")


def build(raw: Path, out: Path) -> None:
    from coread.data_io.sources import build_recording, build_stimuli
    from coread.recording import read_stimuli, write_recording, write_stimuli

    print(f"imports {peak_mb():.0f}", flush=True)
    config = compose_data_io("hoefling_2024_high_res")
    write_stimuli(build_stimuli(config, raw), out / "stimuli.h5")
    for name in NAMES:
        recording = build_recording(config, name, raw, read_stimuli(out / "stimuli.h5"))
        write_recording(recording, out / f"{name}.h5", out / "stimuli.h5")


def train(out: Path, n_sessions: int, budget_mb: float) -> None:
    from coread.data_io.dataloader import SessionWindows
    from coread.data_io.splits import TRAIN, label_bins
    from coread.data_io.statistics import compute_statistics
    from coread.recording import read_recordings

    print(f"imports {peak_mb():.0f}", flush=True)
    paths = [out / f"{NAMES[index % 3]}.h5" for index in range(n_sessions)]
    found = read_recordings(paths, memory_budget_bytes=budget_mb * 1e6)
    recordings = [replace(recording, session=f"session_{index}") for index, recording in enumerate(found)]
    assert len({id(recording.stimuli["train"].frames) for recording in recordings}) == 1 or budget_mb < 600
    split = {"method": "folds", "n_folds": 5, "clip_length": 150, "seed": 0}
    labels = {recording.session: label_bins(recording, split, 0, 30) for recording in recordings}
    statistics = compute_statistics(recordings, labels, normalize_stimulus=False)
    for recording in recordings:
        windows = SessionWindows(
            recording,
            labels[recording.session],
            TRAIN,
            lag=30,
            window_length=100,
            batch_size=16,
            statistics=statistics,
        )
        batch = windows.shuffled(np.random.default_rng(0))[0]
        assert batch.inputs.shape == (16, 2, 100, 72, 64)


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        train(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    print(f"peak {peak_mb():.0f}")
