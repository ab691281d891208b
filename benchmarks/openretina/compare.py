"""Side by side with openretina 1.1.1: test correlation, time to the chosen epoch, peak memory; same data, same machine.

    python benchmarks/openretina/compare.py tutorial [--seeds 0 1 2]
    python benchmarks/openretina/compare.py liu_2017 --data DIR

The peer lives in an environment of its own, made once by `python benchmarks/openretina/compare.py install`: its
packages from the package registry, and the configs of its source archive (the wheel has none). Trainings run one after
the other, the systems taking turns. Both are scored by the same function (scoring.py) in every epoch; each system's own
validation score chooses its epoch. Seconds count from the start of the process, imports and reading included, scoring
excluded.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

HERE = Path(__file__).resolve().parent
PEER = HERE.parent.parent / ".venv-openretina"
VERSION = "1.1.1"
# the published HDF5 configuration as shipped, except for what each data set needs
CASES: dict[str, dict[str, Any]] = {
    "tutorial": {
        "experiment": "hdf5_core_readout",
        "test_names": ["random_noise_2", "random_noise_3"],
        "coread": [],
        "openretina": [],
    },
    "liu_2017": {
        "experiment": "liu_2017_two_layers",
        "test_names": ["frozen"],
        "coread": [],
        "openretina": [
            "data_io.test_names=[frozen]",
            "data_io.color_channels=1",
            "data_io.video_height=44",
            "data_io.video_width=40",
            "model.hidden_channels=[8,16]",
            "model.core.temporal_kernel_sizes=[15,5]",
            "model.core.spatial_kernel_sizes=[11,5]",
            "trainer.max_epochs=30",
        ],
    },
}


def main() -> None:
    """Install the peer, or run a comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=["install", *CASES])
    parser.add_argument("--data", type=Path, help="HDF5 directory; the tutorial's is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, help="write the table there as CSV")
    arguments = parser.parse_args()
    if arguments.case == "install":
        install()
        return
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(arguments.case, arguments.data, Path(folder))
        rows = [
            run(system, arguments.case, data[system], seed, Path(folder))
            for seed in arguments.seeds
            for system in ("coread", "openretina")
        ]
    table = with_seconds_to_the_peers_score(pd.DataFrame(rows))
    print(table.drop(columns="epoch_scores").to_string(index=False, float_format="%.3f"))
    print(ratios(table).to_string(float_format="%.2f"))
    if arguments.output is not None:
        table.to_csv(arguments.output, index=False)


def install() -> None:
    """Make the peer's environment beside the checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    pip = [str(PEER / "bin" / "pip"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "-r", str(HERE / "requirements.txt")], check=True)
    subprocess.run([*pip, "install", "-q", "--no-deps", f"openretina=={VERSION}"], check=True)
    archive = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(PEER), f"openretina=={VERSION}"]
    subprocess.run([*pip, *archive], check=True)
    with tarfile.open(PEER / f"openretina-{VERSION}.tar.gz") as source:
        source.extractall(PEER, filter="data")


def prepare(case: str, given: Path | None, folder: Path) -> dict[str, Path]:
    """Return the directory that each system reads: the peer takes single trials for a stimulus without a movie."""
    ours = given
    if case == "tutorial" and ours is None:
        ours = folder / "tutorial"
        coread = "from coread.cli.main import main; main(['create-data', r'%s'])"
        subprocess.run([sys.executable, "-c", coread % ours], check=True)
    if ours is None:
        raise SystemExit(f"{case}: name its HDF5 directory with --data")
    theirs = folder / "without_trials"
    theirs.mkdir()
    (theirs / "stimuli").symlink_to((ours / "stimuli").resolve(), target_is_directory=True)
    for path in [*ours.glob("*.h5"), *ours.glob("*.hdf5")]:
        with h5py.File(path, "r") as source, h5py.File(theirs / path.name, "w") as target:
            for key in source:
                if not key.endswith("_by_trial"):
                    source.copy(key, target)
    return {"coread": ours, "openretina": theirs}


def run(system: str, case: str, data: Path, seed: int, folder: Path) -> dict[str, Any]:
    """Train one system in a process of its own and return its row."""
    output = folder / f"{system}-{seed}.json"
    job = folder / f"{system}-{seed}.job.json"
    job.write_text(json.dumps(CASES[case] | {"data": str(data.resolve()), "output": str(output), "seed": seed}))
    if system == "coread":
        command = [sys.executable, str(HERE / "train_coread.py"), str(job)]
    else:
        configs = PEER / f"openretina-{VERSION}" / "configs"
        command = [str(PEER / "bin" / "python"), str(HERE / "train_openretina.py"), str(configs), str(job)]
    with (folder / f"{system}-{seed}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{system} failed:\n" + (folder / f"{system}-{seed}.log").read_text()[-3000:])
    epochs = pd.DataFrame(json.loads(output.read_text()))
    best = epochs.loc[epochs["validation"].idxmax()]
    return {
        "system": system,
        "seed": seed,
        "epochs": len(epochs),
        "chosen_epoch": int(epochs["validation"].idxmax()) + 1,
        "test_correlation": best["test"],
        "seconds_to_chosen": best["seconds"],
        "seconds": epochs["seconds"].iloc[-1],
        "peak_mb": usage.ru_maxrss / 1024,
        "epoch_scores": json.dumps(epochs[["seconds", "test"]].round(4).to_numpy().tolist()),
    }


def with_seconds_to_the_peers_score(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the seconds until an epoch is as good on test data as the one that the peer chose."""
    targets = table[table["system"] == "openretina"].set_index("seed")["test_correlation"]
    curves = zip(table["epoch_scores"].map(json.loads), table["seed"].map(targets), strict=True)
    reached = [next((seconds for seconds, score in curve if score >= target), float("nan")) for curve, target in curves]
    of_peer = table["system"] == "openretina"
    return table.assign(
        seconds_to_the_peers_score=pd.Series(reached, table.index).mask(of_peer, table["seconds_to_chosen"])
    )


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Return both systems' means over seeds, and the peer's over ours."""
    columns = ["test_correlation", "seconds_to_chosen", "seconds_to_the_peers_score", "peak_mb"]
    means = table.groupby("system")[columns].mean()
    means.loc["openretina / coread"] = means.loc["openretina"] / means.loc["coread"]
    return means


if __name__ == "__main__":
    main()
