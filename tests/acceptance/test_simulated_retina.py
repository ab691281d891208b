"""Simulated retina, demo size: share of the ceiling, gain over the linear-nonlinear baseline, receptive fields."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.config import compose, stage_slice
from coread.data_io.sources import build_recordings
from coread.eval.predictions import predict_member
from coread.eval.scores import score_experiment
from coread.insilico.receptive_fields import compute_receptive_fields
from coread.recording import Recording
from coread.training import train

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


def train_and_score(experiment: str, recordings: list[Recording], folder: Path):
    """Return the ensemble's fraction of the ceiling per neuron and test stimulus, the members and their seconds."""
    config = compose(experiment)
    members, seconds = [], []
    for seed in (0, 1):
        start = time.perf_counter()
        work = folder / experiment / str(seed)
        members.append(train(stage_slice(config, "train"), recordings, 0, seed, work_dir=work, accelerator="cpu"))
        seconds.append(time.perf_counter() - start)
    predictions = [predict_member(member, recordings, experiment=experiment) for member in members]
    scores = score_experiment(recordings, predictions, stage_slice(config, "evaluate")["evaluation"])
    wanted = (scores["predictor"] == "ensemble") & (scores["metric"] == "fraction_of_ceiling")
    wanted &= scores["tier"] == "test"
    return scores[wanted].set_index(["session", "neuron", "stimulus"])["value"], members, seconds


@pytest.mark.parametrize("simulation_seed", [0, 1, 2])
def test_demo_size(simulation_seed, tmp_path):
    settings = stage_slice(compose("simulated_retina", [f"data_io.seed={simulation_seed}"]), "data")["data_io"]
    recordings = build_recordings(settings)
    core, members, seconds = train_and_score("simulated_retina", recordings, tmp_path)
    baseline, _, baseline_seconds = train_and_score("simulated_retina_ln", recordings, tmp_path)
    truth = {recording.session: recording.session_info["truth_model"].astype(str) for recording in recordings}
    kind = pd.Series([truth[session][neuron] for session, neuron, _ in core.index], core.index)
    gain = (core - baseline)[kind == "subunit"]

    fields = compute_receptive_fields(
        members, recordings, stage_slice(compose("simulated_retina"), "insilico")["insilico"]
    )
    cosine = np.concatenate(
        [field.table["truth_cosine"].to_numpy()[truth[session] == "LN"] for session, field in fields.items()]
    )
    print(f"\nsimulation seed {simulation_seed}: {len(core)} neurons x stimuli")
    print(f"  a member trains in {seconds[0]:.1f} and {seconds[1]:.1f} s (baseline {baseline_seconds[0]:.1f} s)")
    for stimulus, values in core.groupby("stimulus"):
        print(f"  {stimulus}: fraction of ceiling mean {values.mean():.3f}, lowest {values.min():.3f}")
    print(f"  gain over the baseline on subunit cells {gain.mean():.3f}")
    print(f"  LN cells, cosine with the true filter: mean {cosine.mean():.3f}, >= .80 in {np.mean(cosine >= 0.8):.0%}")
    assert core.groupby("stimulus").mean().min() >= 0.90
    assert core.min() >= 0.75
    assert gain.groupby("stimulus").mean().min() >= 0.03
    assert cosine.mean() >= 0.85
    assert np.mean(cosine >= 0.8) >= 0.75
