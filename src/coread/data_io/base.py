"""The documented containers of movies and responses, and what a model is told about them.

They hold plain arrays as the documents show them; `conversion.py` turns them into recordings and back, so that the same
`train()` takes both.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from coread.data_io.restricted_pickle import load_pickle

Movie = Shaped[np.ndarray, "channel time height width"]
Responses = Shaped[np.ndarray, "neuron time"]


class ContainerError(ValueError, AssertionError):
    """Movies or responses do not fit together; an AssertionError too, as the documented containers raise."""


@dataclass(frozen=True)
class MoviesTrainTestSplit:
    """The movies that a session saw: `train` and every test movie are (channel, time, height, width).

    Give either `test_dict` (name -> movie) or one movie as `test`, which becomes `{"test": movie}`. `norm_mean` and
    `norm_std` are what was subtracted and divided by: a physical value is `movie * norm_std + norm_mean`.
    `random_sequences` (clip, sequence) are clip orders. Raises ContainerError.
    """

    train: Movie
    test_dict: dict[str, Any] = field(default_factory=dict)
    test: InitVar[Movie | None] = None
    stim_id: str | None = None
    random_sequences: Int[np.ndarray, "clip sequence"] | None = None
    norm_mean: float | None = None
    norm_std: float | None = None

    def __post_init__(self, test: Movie | None) -> None:
        object.__setattr__(self, "train", np.asarray(self.train))
        object.__setattr__(self, "test_dict", _one_of(self.test_dict, test))
        for name, movie in {"train": self.train, **self.test_dict}.items():
            if movie.ndim != 4:
                raise ContainerError(
                    f"the {name} movie must be (channel, time, height, width), found shape {movie.shape}"
                )
        for name, movie in self.test_dict.items():
            if _without_time(movie) != _without_time(self.train):
                raise ContainerError(
                    f"movies must share (channel, height, width): train has {_without_time(self.train)}, "
                    f"{name} has {_without_time(movie)}"
                )
        if self.train.shape[0] > self.train.shape[1]:
            warnings.warn(
                f"the train movie has more channels ({self.train.shape[0]}) than frames ({self.train.shape[1]}); "
                "expected (channel, time, height, width)",
                stacklevel=3,
            )

    @classmethod
    def from_pickle(cls, file_path: str | os.PathLike[str]) -> "MoviesTrainTestSplit":
        """Read a pickled dictionary with `train`, `test` and optionally `random_sequences` and `movie_stats`.

        Nothing but arrays and plain containers is unpickled. Raises ContainerError for missing keys and the restricted
        unpickler's error, which names what it refused.
        """
        content = load_pickle(Path(file_path))
        if not isinstance(content, Mapping) or not {"train", "test"} <= set(content):
            found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ContainerError(f"{file_path}: expected a dictionary with the keys train and test, found {found}")
        stats = content.get("movie_stats", {}).get("dichromatic", {})
        return cls(
            train=content["train"],
            test=content["test"],
            random_sequences=content.get("random_sequences"),
            norm_mean=_scalar(stats.get("mean")),
            norm_std=_scalar(stats.get("sd")),
        )

    @property
    def test_shape(self) -> tuple[int, int, int, int]:
        """(channel, time, height, width) of the longest test movie."""
        channels, height, width = _without_time(self.train)
        return channels, max(movie.shape[1] for movie in self.test_dict.values()), height, width

    @property
    def test_movie(self) -> Movie:
        """The only test movie; raises ContainerError if there are several."""
        return _only(self.test_dict, "test movies")


@dataclass
class ResponsesTrainTestSplit:
    """The responses of a session: `train` and every entry of `test_dict` (the mean over repeats) are (neuron, time).

    Repeats, `test_by_trial` of the only test stimulus or `test_by_trial_dict` by name, are always (repeat, neuron,
    time). Give either `test_dict` or one array as `test`. `session_kwargs` keeps whatever else the session carries.
    Raises ContainerError.
    """

    train: Responses
    test_dict: dict[str, Any] = field(default_factory=dict)
    test: InitVar[Responses | None] = None
    test_by_trial: Shaped[np.ndarray, "repeat neuron time"] | None = None
    test_by_trial_dict: dict[str, Any] = field(default_factory=dict)
    stim_id: str | None = None
    session_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self, test: Responses | None) -> None:
        self.train = np.asarray(self.train)
        self.test_dict = _one_of(self.test_dict, test)
        for name, values in {"train": self.train, **self.test_dict}.items():
            if values.ndim != 2:
                raise ContainerError(f"the {name} responses must be (neuron, time), found shape {values.shape}")
        counts = {name: len(values) for name, values in {"train": self.train, **self.test_dict}.items()}
        if len(set(counts.values())) > 1:
            raise ContainerError(f"responses must have the same neurons, found {counts}")
        self.test_by_trial_dict = self._repeats()
        if self.train.shape[0] > self.train.shape[1]:
            warnings.warn(
                f"the train responses have more neurons ({self.train.shape[0]}) than bins ({self.train.shape[1]}); "
                "expected (neuron, time)",
                stacklevel=3,
            )

    def _repeats(self) -> dict[str, np.ndarray]:
        """Return the repeats by test stimulus; raises ContainerError unless they are (repeat, neuron, time)."""
        repeats = {name: np.asarray(values) for name, values in self.test_by_trial_dict.items()}
        if self.test_by_trial is not None:
            if len(self.test_dict) > 1:
                raise ContainerError(f"with several test stimuli {sorted(self.test_dict)} give test_by_trial_dict")
            repeats.setdefault(next(iter(self.test_dict)), np.asarray(self.test_by_trial))
        if unknown := sorted(set(repeats) - set(self.test_dict)):
            raise ContainerError(f"test_by_trial_dict has {unknown}, test responses exist for {sorted(self.test_dict)}")
        for name, values in repeats.items():
            mean = self.test_dict[name]
            if values.ndim != 3 or values.shape[1:] != mean.shape:
                axes = " x ".join(map(str, values.shape))
                raise ContainerError(
                    f"test_by_trial of {name} must be (repeat, neuron, time) = (any, {mean.shape[0]}, "
                    f"{mean.shape[1]}), found {axes}"
                )
        return repeats

    @property
    def n_neurons(self) -> int:
        """Number of neurons."""
        return int(self.train.shape[0])

    @property
    def test_neurons(self) -> int:
        """Number of neurons in the test responses."""
        return self.n_neurons

    @property
    def test_response(self) -> Responses:
        """The only test responses; raises ContainerError if there are several."""
        return _only(self.test_dict, "test responses")

    def get_test_by_trial(self, name: str = "test") -> Shaped[np.ndarray, "repeat neuron time"] | None:
        """Return the repeats of a test stimulus, None where there are none."""
        return self.test_by_trial_dict.get(name)

    def check_matching_stimulus(self, movies: MoviesTrainTestSplit) -> None:
        """Raise ContainerError unless bins, test stimuli and (where both have one) stim_id are those of the movies."""
        if self.stim_id is not None and movies.stim_id is not None and self.stim_id != movies.stim_id:
            raise ContainerError(f"the responses are to stimulus {self.stim_id!r}, the movies are {movies.stim_id!r}")
        if set(self.test_dict) != set(movies.test_dict):
            raise ContainerError(
                f"test responses exist for {sorted(self.test_dict)}, test movies for {sorted(movies.test_dict)}"
            )
        shown = {"train": movies.train, **movies.test_dict}
        for name, values in {"train": self.train, **self.test_dict}.items():
            if values.shape[1] != shown[name].shape[1]:
                raise ContainerError(
                    f"the {name} responses have {values.shape[1]} bins, the movie has {shown[name].shape[1]} frames"
                )


@dataclass
class DatasetStatistics:
    """How many different frames, and pairs of consecutive ones, loaders show; of test movies by name.

    `dataset_statistics.compute_dataloader_statistics` counts them.
    """

    unique_train_frames: int
    unique_val_frames: int
    unique_train_val_frames: int
    unique_test_frames: dict[str, int]
    unique_train_transitions: int
    unique_val_transitions: int
    unique_test_transitions: dict[str, int]
    n_sessions: int

    @classmethod
    def empty(cls) -> "DatasetStatistics":
        """Return the statistics of no loader at all."""
        return cls(0, 0, 0, {}, 0, 0, {}, 0)


def get_n_neurons_per_session(responses_dict: Mapping[str, ResponsesTrainTestSplit]) -> dict[str, int]:
    """Return the number of neurons of every session."""
    return {session: responses.n_neurons for session, responses in responses_dict.items()}


def movies_of(
    session: str, movies_dictionary: Mapping[str, MoviesTrainTestSplit] | MoviesTrainTestSplit
) -> MoviesTrainTestSplit:
    """Return what a session saw, from one container for all sessions or one each; raises ContainerError."""
    if isinstance(movies_dictionary, MoviesTrainTestSplit):
        return movies_dictionary
    if session not in movies_dictionary:
        raise ContainerError(f"session {session!r} has responses but no movies; there are {sorted(movies_dictionary)}")
    return movies_dictionary[session]


def normalize_train_test_movies(
    train: Movie, test: Movie
) -> tuple[
    Float[np.ndarray, "channel time height width"],
    Float[np.ndarray, "channel time height width"],
    dict[str, float],
]:
    """Return float32 copies of both movies as z-scores of the train movie, and {"norm_mean", "norm_std"}.

    The std over all pixels and frames is the unbiased one, as published. Raises ContainerError if it is zero.
    """
    values = torch.as_tensor(np.asarray(train)).to(torch.float32)
    std, mean = torch.std_mean(values)
    if not std > 0:
        raise ContainerError("the train movie does not vary, so it cannot be normalised")
    held_out = torch.as_tensor(np.asarray(test)).to(torch.float32)
    stats = {"norm_mean": mean.item(), "norm_std": std.item()}
    return ((values - mean) / std).numpy(), ((held_out - mean) / std).numpy(), stats


def compute_data_info(
    neuron_data_dictionary: Mapping[str, ResponsesTrainTestSplit],
    movies_dictionary: Mapping[str, MoviesTrainTestSplit] | MoviesTrainTestSplit,
    partial_data_info: Mapping[str, Any] | None = None,
    *,
    training_bins: Mapping[str, Bool[np.ndarray, "time"]] | None = None,
) -> dict[str, Any]:
    """Return what a model is told about its data, to be given to it as `data_info`.

    Keys: n_neurons_dict, mean_activity_dict (neuron,), input_shape (channel, height, width), sessions_kwargs,
    stim_mean, stim_std, and those of `partial_data_info`. `training_bins` marks, per session, the bins of `train` that
    are not held out for validation (`base_dataloader.training_bins` computes them): only they enter the mean activity.
    Raises ContainerError if sessions differ in shape or normalisation.
    """
    movies = {session: movies_of(session, movies_dictionary) for session in neuron_data_dictionary}
    shapes = {session: _without_time(movie.train) for session, movie in movies.items()}
    if len(set(shapes.values())) != 1:
        raise ContainerError(f"sessions must share (channel, height, width), found {shapes}")
    mean, std = _shared_normalisation(movies)
    return {
        "n_neurons_dict": get_n_neurons_per_session(neuron_data_dictionary),
        "mean_activity_dict": {
            session: _mean_activity(session, responses, training_bins)
            for session, responses in neuron_data_dictionary.items()
        },
        "input_shape": next(iter(shapes.values())),
        "sessions_kwargs": {session: each.session_kwargs for session, each in neuron_data_dictionary.items()},
        "stim_mean": mean,
        "stim_std": std,
        **(partial_data_info or {}),
    }


def _mean_activity(
    session: str, responses: ResponsesTrainTestSplit, training_bins: Mapping[str, np.ndarray] | None
) -> Float[torch.Tensor, "neuron"]:
    values = responses.train
    if training_bins is not None:
        if session not in training_bins or len(training_bins[session]) != values.shape[1]:
            raise ContainerError(f"training_bins must mark the {values.shape[1]} bins of session {session!r}")
        values = values[:, training_bins[session]]
    if not np.isfinite(values).all():
        raise ContainerError(f"session {session!r} has training responses that are not finite")
    return torch.as_tensor(values.mean(axis=1, dtype=np.float64), dtype=torch.float32)


def _shared_normalisation(movies: Mapping[str, MoviesTrainTestSplit]) -> tuple[float, float]:
    """Return mean and std of the first session that has them; 0 and 1, with a warning, if none has."""
    found = {}
    for name, otherwise in (("norm_mean", 0.0), ("norm_std", 1.0)):
        known = {session: float(getattr(m, name)) for session, m in movies.items() if getattr(m, name) is not None}
        if not known:
            warnings.warn(f"no movie says its {name}: taken as {otherwise}", stacklevel=4)
        found[name] = known or {"": otherwise}
    std = next(iter(found["norm_std"].values()))
    # the published tolerance of one grey level, but never a tenth of the contrast: it was chosen for movies of 0 to 255
    tolerance = min(1.0, 0.1 * abs(std))
    for name, known in found.items():
        if np.ptp(list(known.values())) > tolerance:
            raise ContainerError(f"movies must be normalised alike: their {name} are {known}")
    return next(iter(found["norm_mean"].values())), std


def _one_of(by_name: Mapping[str, Any], single: Any) -> dict[str, np.ndarray]:
    if bool(by_name) == (single is not None):
        given = "both" if by_name else "neither"
        raise ContainerError(f"give exactly one of test and test_dict, found {given}")
    return {name: np.asarray(values) for name, values in (by_name or {"test": single}).items()}


def _only(by_name: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    if len(by_name) > 1:
        raise ContainerError(f"there are several {what}, name one of {sorted(by_name)}")
    return next(iter(by_name.values()))


def _without_time(movie: np.ndarray) -> tuple[int, int, int]:
    return movie.shape[0], movie.shape[2], movie.shape[3]


def _scalar(value: Any) -> float | None:
    """Return the number in an array of one; None where there is none or where it is NaN."""
    if value is None or np.isnan(number := float(np.asarray(value).item())):
        return None
    return number
