"""Tutorial data of `coread create-data` with configs/hdf5_core_readout.yaml: test correlation, causal ceiling."""

import time

import numpy as np
import pytest

from coread.config import compose, stage_slice
from coread.data_io.sources import build_recordings
from coread.data_io.tutorial_data import causal_ceiling, create_data
from coread.eval.predictions import predict_member
from coread.eval.scores import score_experiment
from coread.training import train

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


def ridge_scores(recordings, n_past=8, penalty=300.0):
    """Return each neuron's test correlation of a ridge regression on all pixels of the current and past frames."""
    scores = []
    for recording in recordings:
        names, tier = recording.bin_column("stimulus"), recording.bin_column("tier")
        designs = {}
        for name, stimulus in recording.stimuli.items():
            frames = np.asarray(stimulus.frames, np.float32).reshape(len(stimulus.frames), -1)
            designs[name] = np.concatenate([frames[n_past - k : len(frames) - k] for k in range(n_past + 1)], axis=1)
        usable = recording.bin_in_trial() >= n_past

        def rows(wanted, names=names, tier=tier, usable=usable, recording=recording, designs=designs):
            chosen = [name for name in designs if (tier[names == name] == wanted).any()]
            responses = np.concatenate([recording.responses[(names == name) & usable] for name in chosen])
            return np.concatenate([designs[name] for name in chosen]), responses

        x, y = rows("train")
        gram = x.T @ x + penalty * np.eye(x.shape[1], dtype=np.float32)
        weights = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)))
        x, y = rows("test")
        predicted = x @ weights
        predicted, y = predicted - predicted.mean(axis=0), y - y.mean(axis=0)
        scores.append((predicted * y).sum(0) / np.sqrt((predicted**2).sum(0) * (y**2).sum(0)))
    return np.concatenate(scores)


def test_three_seeds(tmp_path):
    create_data(tmp_path / "data")
    config = compose("hdf5_core_readout")
    recordings = build_recordings(stage_slice(config, "data")["data_io"], tmp_path / "data")
    ceiling = np.concatenate(list(causal_ceiling(tmp_path / "data").values()))
    ridge = ridge_scores(recordings)
    print(f"\ncausal ceiling {ceiling.mean():.3f}, ridge on all pixels {ridge.mean():.3f} ({len(ceiling)} neurons)")
    for seed in (0, 1, 2):
        start = time.perf_counter()
        member = train(
            stage_slice(config, "train"), recordings, 0, seed, work_dir=tmp_path / str(seed), accelerator="cpu"
        )
        seconds = time.perf_counter() - start
        predictions = [predict_member(member, recordings, experiment="hdf5_core_readout")]
        scores = score_experiment(recordings, predictions, stage_slice(config, "evaluate")["evaluation"])
        wanted = (scores["metric"] == "correlation_to_average") & (scores["tier"] == "test")
        wanted &= scores["predictor"] == "ensemble"
        neuron = scores[wanted].groupby(["session", "neuron"])["value"].mean()
        print(f"seed {seed}: {seconds:.1f} s, test correlation mean {neuron.mean():.3f}, lowest {neuron.min():.3f}")
        assert neuron.mean() >= 0.75
        assert neuron.mean() >= 0.9 * ceiling.mean()
        assert neuron.min() >= 0.60
