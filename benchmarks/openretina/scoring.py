"""The score that both systems are given, and the clock that both run under; imported in either environment."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import psutil

WARM_UP = 60  # bins at the start of a test stimulus that are left out: longer than either model's lag


class Probe:
    """Notes after every epoch: seconds since the process was started, validation score and test correlation.

    The time that scoring takes is taken off the clock.
    """

    def __init__(self, data: Path, test_names: Sequence[str], output: Path) -> None:
        self.responses = read_test_responses(data, test_names)
        self.output, self.spent_s, self.rows = output, 0.0, []
        self.started = psutil.Process().create_time()

    def note(self, validation: float, predict: Callable[[str, str], np.ndarray]) -> None:
        """Score `predict(session, stimulus) -> (time, neuron)`, the last `time` bins of the stimulus, and note it."""
        begun = time.time()
        seconds = begun - self.started - self.spent_s
        predicted = {
            (session, name): predict(session, name) for session in self.responses for name in self.responses[session]
        }
        score = test_correlation(self.responses, predicted)
        self.rows.append({"seconds": seconds, "validation": validation, "test": score})
        self.output.write_text(json.dumps(self.rows))
        self.spent_s += time.time() - begun


def read_test_responses(data: Path, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Return session -> test stimulus -> mean responses (time, neuron) of an HDF5 directory."""
    found = {}
    for path in sorted([*data.glob("*.h5"), *data.glob("*.hdf5")]):
        with h5py.File(path, "r") as file:
            found[path.stem] = {name: file[f"responses_{name}"][()].T for name in names}
    return found


def test_correlation(
    responses: Mapping[str, Mapping[str, np.ndarray]], predicted: Mapping[tuple[str, str], np.ndarray]
) -> float:
    """Return the mean over all neurons of the correlation over all test bins; 0 for a prediction that never changes."""
    scores = []
    for session, stimuli in responses.items():
        recorded = np.concatenate([values[WARM_UP:] for values in stimuli.values()])
        guessed = np.concatenate(
            [predicted[session, name][-(len(values) - WARM_UP) :] for name, values in stimuli.items()]
        )
        recorded, guessed = recorded - recorded.mean(axis=0), guessed - guessed.mean(axis=0)
        scale = np.sqrt(np.square(recorded).sum(axis=0) * np.square(guessed).sum(axis=0))
        products = (recorded * guessed).sum(axis=0)
        scores.append(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0))
    return float(np.concatenate(scores).mean())
