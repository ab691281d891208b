"""A real recording through the workflow: salamander ganglion cells of Liu et al. 2017, two folds x two seeds."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.data_io.sta import compute_sta
from coread.eval.scores import read_scores
from coread.insilico.gaussian_fit import fit_gaussians
from coread.insilico.separable import separate
from coread.recording import read_recordings
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.acceptance


@pytest.mark.timeout(5400)
def test_the_ensemble_predicts_the_frozen_noise(reference_data, tmp_path):
    convert = reference_data / "data" / "liu2017" / "convert.py"
    subprocess.run([sys.executable, str(convert), str(tmp_path / "data")], check=True)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(clone)], check=True)
    command = ["snakemake", "--profile", "profiles/local", "scores", "insilico", "--config"]
    command += ["experiments=[liu_2017]", f"data_dirs={{liu_2017: {tmp_path / 'data'}}}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = time.perf_counter()
    subprocess.run(command, cwd=clone, env=environment, check=True)
    print(f"\nthe workflow took {time.perf_counter() - start:.0f} s")

    for path in sorted(clone.glob("logs/train_member/liu_2017/fold*/seed*.tsv")):
        row = next(csv.DictReader(path.open(), delimiter="\t"))
        print(f"  {path.parent.name} {path.stem}: {row['s']} s wall, {row['cpu_time']} s CPU, {row['max_rss']} MB")
    scores = read_scores(clone / "results" / "liu_2017" / "scores.csv")
    median = {}
    for (predictor, metric), group in scores[scores["tier"] == "test"].groupby(["predictor", "metric"]):
        values = group["value"].to_numpy(float)
        median[predictor, metric] = np.nanmedian(values)
        middle, mean = np.nanmedian(values), np.nanmean(values)
        print(f"  {predictor:12} {metric:26} median {middle:.3f} mean {mean:.3f} n {len(values)}")
    assert median["ensemble", "correlation_to_average"] >= 0.60
    members = [
        value for (predictor, metric), value in median.items() if predictor.startswith("fold") and "average" in metric
    ]
    assert len(members) == 4
    assert median["ensemble", "correlation_to_average"] > np.mean(members)
    check_receptive_fields(clone)


def check_receptive_fields(clone: Path) -> None:
    """Compare the ensemble's receptive fields with the spike-triggered averages of the recorded training responses.

    A pixel is a check of the stimulus. The averages go through the same decomposition and fit.
    """
    fields = pd.read_csv(clone / "results" / "liu_2017" / "receptive_fields.csv")
    recordings = read_recordings(sorted((clone / "results" / "data" / "liu_2017").glob("retina*.h5")))
    distance, same = [], []
    for recording in recordings:
        own = fields[fields["session"] == recording.session].sort_values("neuron")
        training = recording.bin_column("tier").astype(str) == "train"
        parts = separate(compute_sta(recording, training, lag=19), smoothing_px=1.0)
        recorded = fit_gaussians(parts.spatial[np.arange(len(own)), parts.channel], parts.peak_px)
        offset = own[["center_y_px", "center_x_px"]].to_numpy(float) - recorded.center_px
        distance += np.linalg.norm(offset, axis=1).tolist()
        same += (own["polarity"].to_numpy(int) == parts.polarity).tolist()
    print(f"  receptive fields: distance to the recorded average (checks) {np.round(distance, 2).tolist()}")
    print(f"  cosine between members {fields['member_consistency'].round(3).tolist()}")
    assert len(distance) == 12
    assert sum(value <= 1.0 for value in distance) >= 11
    assert all(same)
    spread = fields[["center_y_px_sd_members", "center_x_px_sd_members", "member_consistency"]]
    assert np.isfinite(spread.to_numpy(float)).all()
