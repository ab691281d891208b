"""The synthetic data of the documented HDF5 tutorial, and how well a causal model can do on them.

Stimuli are Gaussian noise. A neuron sums one colour over a small square, averages over a few frames and adds a bias;
there is no response noise. The running average is centred, as in the published generator: a bin also depends on one or
two FUTURE frames, so no causal model can be perfect. `causal_ceiling` measures how good one can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float, Int

HEIGHT, WIDTH = 16, 8
FIRST_CLIPS = 70  # stimulus i has 70 + i clips
NEURONS = (10, 30)  # drawn per session, upper bound excluded
SQUARE_PX = (2, 6)
BOXCAR_BINS = (3, 7)


@dataclass(frozen=True)
class TutorialNeurons:
    """Ground truth of one session; every field is (neuron,)."""

    square_top_px: Int[np.ndarray, "neuron"]
    square_left_px: Int[np.ndarray, "neuron"]
    square_size_px: Int[np.ndarray, "neuron"]
    color_channel: Int[np.ndarray, "neuron"]
    boxcar_bins: Int[np.ndarray, "neuron"]
    scale: Float[np.ndarray, "neuron"]
    bias: Float[np.ndarray, "neuron"]

    def square_sums(self, movie: Float[np.ndarray, "channel time height width"]) -> Float[np.ndarray, "time neuron"]:
        """Return the sum over each neuron's square in its colour."""
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        top, left = self.square_top_px[:, None, None], self.square_left_px[:, None, None]
        size = self.square_size_px[:, None, None]
        inside = (y >= top) & (y < top + size) & (x >= left) & (x < left + size)
        sums = np.einsum("cthw,nhw->ctn", movie, inside.astype(movie.dtype), optimize=True)
        return sums[self.color_channel, :, np.arange(len(self.scale))].T

    def responses(self, movie: Float[np.ndarray, "channel time height width"]) -> Float[np.ndarray, "neuron time"]:
        """Return the noise-free responses: bin t averages frames t - floor(k / 2) to t + floor((k - 1) / 2)."""
        traces = self.square_sums(movie)
        total = np.pad(np.cumsum(traces, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
        bins = np.arange(len(traces))[:, None]
        first = np.maximum(bins - self.boxcar_bins // 2, 0)
        last = np.minimum(bins + (self.boxcar_bins - 1) // 2 + 1, len(traces))
        neuron = np.arange(len(self.scale))
        mean = (total[last, neuron] - total[first, neuron]) / self.boxcar_bins
        return (self.scale * mean + self.bias).T


def create_data(
    folder: Path,
    num_colors: int = 3,
    num_stimuli: int = 4,
    num_sessions: int = 2,
    clip_length: int = 75,
    seed: int = 0,
) -> None:
    """Write `stimuli/random_noise_i.npy` and `session_j.hdf5` in the layout of the HDF5 directory reader.

    Stimulus i has (70 + i) * clip_length frames of 16 x 8 pixels; a session has 10 to 29 neurons, whose ground truth is
    in `session_info`. Raises ValueError for counts below 1.
    """
    counts = {"num_colors": num_colors, "num_stimuli": num_stimuli, "num_sessions": num_sessions}
    for name, value in {**counts, "clip_length": clip_length}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    (folder / "stimuli").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    movies = {}
    for index in range(num_stimuli):
        shape = (num_colors, (FIRST_CLIPS + index) * clip_length, HEIGHT, WIDTH)
        movies[f"random_noise_{index}"] = rng.standard_normal(shape, np.float32)
    for name, movie in movies.items():
        np.save(folder / "stimuli" / f"{name}.npy", movie)
    for index in range(num_sessions):
        neurons = _draw_neurons(num_colors, rng)
        with h5py.File(folder / f"session_{index}.hdf5", "w") as file:
            for name, movie in movies.items():
                file[f"responses_{name}"] = neurons.responses(movie).astype(np.float32)
            for key, values in vars(neurons).items():
                file[f"session_info/{key}"] = values


def causal_ceiling(
    folder: Path, test_names: Sequence[str] = ("random_noise_2", "random_noise_3"), n_past: int = 8
) -> dict[str, Float[np.ndarray, "neuron"]]:
    """Return per session the test correlation of the best linear model on the current and `n_past` past frames.

    It knows each neuron's square and colour, and fits its temporal weights by least squares on the other stimuli; test
    stimuli are joined. About .82 on average. Raises ValueError if no stimulus is left to fit on or to test on.
    """
    names = sorted(path.stem for path in (folder / "stimuli").glob("*.npy"))
    train = [name for name in names if name not in test_names]
    test = [name for name in names if name in test_names]
    if not train or not test:
        raise ValueError(f"{folder}: need stimuli to fit and to test on, found {names}, tests {list(test_names)}")
    movies = {name: np.load(folder / "stimuli" / f"{name}.npy", allow_pickle=False) for name in names}
    ceilings = {}
    for path in sorted(folder.glob("session_*.hdf5")):
        with h5py.File(path, "r") as file:
            neurons = TutorialNeurons(**{key: values[()] for key, values in file["session_info"].items()})
            responses = {name: file[f"responses_{name}"][()].T[n_past:] for name in names}
        designs = {name: _past(neurons.square_sums(movies[name]), n_past) for name in names}
        weights = _least_squares(*(np.concatenate([data[name] for name in train]) for data in (designs, responses)))
        predicted = np.concatenate([np.einsum("tnl,nl->tn", designs[name], weights) for name in test])
        ceilings[path.stem] = _correlation(predicted, np.concatenate([responses[name] for name in test]))
    return ceilings


def _draw_neurons(num_colors: int, rng: np.random.Generator) -> TutorialNeurons:
    n_neurons = int(rng.integers(*NEURONS))
    size = rng.integers(*SQUARE_PX, n_neurons)
    return TutorialNeurons(
        square_top_px=rng.integers(0, HEIGHT - size + 1),
        square_left_px=rng.integers(0, WIDTH - size + 1),
        square_size_px=size,
        color_channel=rng.integers(0, num_colors, n_neurons),
        boxcar_bins=rng.integers(*BOXCAR_BINS, n_neurons),
        scale=rng.uniform(0.5, 1.5, n_neurons),
        bias=rng.uniform(0.0, 1.0, n_neurons),
    )


def _past(traces: Float[np.ndarray, "time neuron"], n_past: int) -> Float[np.ndarray, "bin neuron regressor"]:
    """Return, for every bin with a full past, the current and past values and a constant."""
    windows = np.lib.stride_tricks.sliding_window_view(traces, n_past + 1, axis=0)
    return np.concatenate([windows, np.ones_like(windows[..., :1])], axis=-1)


def _least_squares(
    design: Float[np.ndarray, "bin neuron regressor"], responses: Float[np.ndarray, "bin neuron"]
) -> Float[np.ndarray, "neuron regressor"]:
    gram = np.einsum("tnl,tnm->nlm", design, design, optimize=True)
    return np.linalg.solve(gram, np.einsum("tnl,tn->nl", design, responses)[..., None])[..., 0]


def _correlation(
    first: Float[np.ndarray, "bin neuron"], second: Float[np.ndarray, "bin neuron"]
) -> Float[np.ndarray, "neuron"]:
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return (first * second).sum(axis=0) / np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
