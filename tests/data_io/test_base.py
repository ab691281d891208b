"""Documented containers: what they accept, what they say is wrong, and what a model is told about them."""

import pickle

import numpy as np
import pytest
import torch

from coread.data_io.base import (
    MoviesTrainTestSplit,
    ResponsesTrainTestSplit,
    compute_data_info,
    normalize_train_test_movies,
)
from coread.data_io.base_dataloader import training_bins

rng = np.random.default_rng(0)


def movie(n_frames: int = 40, n_channels: int = 2, height: int = 4, width: int = 3) -> np.ndarray:
    return rng.standard_normal((n_channels, n_frames, height, width)).astype(np.float32)


def responses(n_neurons: int = 5, n_bins: int = 40) -> np.ndarray:
    return rng.random((n_neurons, n_bins), np.float32)


# --------------------------------------------------------------------------------------------------------------- movies


def test_a_single_test_movie_becomes_the_dictionary() -> None:
    test = movie(12)
    split = MoviesTrainTestSplit(train=movie(), test=test, stim_id="natural")
    assert split.test_dict == {"test": test} or split.test_dict["test"] is test
    assert split.test_movie is test
    assert split.test_shape == (2, 12, 4, 3)


def test_the_test_shape_is_that_of_the_longest_test_movie() -> None:
    split = MoviesTrainTestSplit(train=movie(), test_dict={"short": movie(7), "long": movie(15)})
    assert split.test_shape == (2, 15, 4, 3)
    with pytest.raises(ValueError, match=r"several test movies.*\['long', 'short'\]"):
        _ = split.test_movie


def test_a_container_does_not_change_the_callers_dictionary() -> None:
    given: dict[str, np.ndarray] = {}
    MoviesTrainTestSplit(train=movie(), test_dict=given, test=movie(5))
    assert given == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of test and test_dict, found neither"),
        ({"test": movie(5), "test_dict": {"a": movie(5)}}, "exactly one of test and test_dict, found both"),
        ({"test": movie(5)[0]}, r"test movie must be \(channel, time, height, width\), found shape \(5, 4, 3\)"),
        ({"test": movie(5, n_channels=1)}, r"train has \(2, 4, 3\), test has \(1, 4, 3\)"),
        ({"test": movie(5, width=9)}, r"train has \(2, 4, 3\), test has \(2, 4, 9\)"),
        ({"test_dict": {"a": movie(5), "b": movie(5, height=9)}}, r"b has \(2, 9, 3\)"),
    ],
)
def test_movies_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MoviesTrainTestSplit(train=movie(), **arguments)
    with pytest.raises(AssertionError):  # what the published container raises for shapes
        MoviesTrainTestSplit(train=movie(), **arguments)


def test_a_transposed_movie_is_suspected() -> None:
    with pytest.warns(UserWarning, match=r"more channels \(40\) than frames \(2\)"):
        MoviesTrainTestSplit(train=movie().transpose(1, 0, 2, 3), test=movie(5).transpose(1, 0, 2, 3)[:1].repeat(40, 0))


def test_a_published_pickle_is_read_without_running_it(tmp_path) -> None:
    stats = {"dichromatic": {"mean": np.array([36.9]), "sd": np.array([35.0])}}
    content = {
        "train": movie(),
        "test": movie(8),
        "random_sequences": np.zeros((4, 20), np.uint8),
        "movie_stats": stats,
    }
    path = tmp_path / "movies.pkl"
    path.write_bytes(pickle.dumps(content))
    split = MoviesTrainTestSplit.from_pickle(path)
    np.testing.assert_array_equal(split.train, content["train"])
    np.testing.assert_array_equal(split.test_movie, content["test"])
    assert split.random_sequences is not None
    assert split.random_sequences.shape == (4, 20)
    assert (split.norm_mean, split.norm_std) == (36.9, 35.0)
    path.write_bytes(pickle.dumps({"train": movie(), "test": movie(8)}))
    assert MoviesTrainTestSplit.from_pickle(path).norm_mean is None


def test_a_pickle_that_would_run_something_is_refused_by_name(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "movies.pkl"
    path.write_bytes(pickle.dumps({"train": Evil(), "test": movie(8)}))
    with pytest.raises(ValueError, match=r"movies\.pkl.*exec"):
        MoviesTrainTestSplit.from_pickle(path)


# ------------------------------------------------------------------------------------------------------------ responses


def test_repeats_have_one_axis_order() -> None:
    repeats = rng.random((3, 5, 12), np.float32)
    split = ResponsesTrainTestSplit(train=responses(), test=repeats.mean(0), test_by_trial=repeats)
    assert split.get_test_by_trial() is split.test_by_trial_dict["test"]
    np.testing.assert_array_equal(split.get_test_by_trial(), repeats)
    assert (split.n_neurons, split.test_neurons, split.test_response.shape) == (5, 5, (5, 12))
    for order in [(1, 2, 0), (0, 2, 1), (2, 1, 0)]:  # Hoefling's and Sridhar's among them
        with pytest.raises(ValueError, match=r"must be \(repeat, neuron, time\) = \(any, 5, 12\), found"):
            ResponsesTrainTestSplit(
                train=responses(), test=repeats.mean(0), test_by_trial=np.ascontiguousarray(repeats.transpose(order))
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of test and test_dict, found neither"),
        ({"test": responses(4, 10)}, r"same neurons, found \{'train': 5, 'test': 4\}"),
        ({"test": np.zeros(10)}, r"test responses must be \(neuron, time\), found shape \(10,\)"),
        (
            {"test": responses(5, 10), "test_by_trial_dict": {"other": np.zeros((2, 5, 10))}},
            r"test_by_trial_dict has \['other'\], test responses exist for \['test'\]",
        ),
        (
            {"test_dict": {"a": responses(5, 9), "b": responses(5, 9)}, "test_by_trial": np.zeros((2, 5, 9))},
            "give test_by_trial_dict",
        ),
    ],
)
def test_responses_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResponsesTrainTestSplit(train=responses(), **arguments)


def test_transposed_responses_are_suspected() -> None:
    with pytest.warns(UserWarning, match=r"more neurons \(40\) than bins \(5\)"):
        ResponsesTrainTestSplit(train=responses().T, test=responses(40, 6))


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ({"train": movie(41), "test": movie(12)}, "train responses have 40 bins, the movie has 41 frames"),
        ({"train": movie(40), "test": movie(13)}, "test responses have 12 bins, the movie has 13 frames"),
        ({"train": movie(40), "test_dict": {"b": movie(12)}}, r"exist for \['test'\], test movies for \['b'\]"),
        ({"train": movie(40), "test": movie(12), "stim_id": "noise"}, "stimulus 'natural', the movies are 'noise'"),
    ],
)
def test_responses_to_another_movie_are_refused(movies: dict, message: str) -> None:
    split = ResponsesTrainTestSplit(train=responses(), test=responses(5, 12), stim_id="natural")
    split.check_matching_stimulus(MoviesTrainTestSplit(train=movie(), test=movie(12)))  # no stim_id: not compared
    with pytest.raises(ValueError, match=message):
        split.check_matching_stimulus(MoviesTrainTestSplit(**movies))


# ------------------------------------------------------------------------------------------ normalisation and data_info


def test_normalisation_uses_the_train_movie_only() -> None:
    train, test = 3 * movie() + 7, movie(12) + 100
    normal, held_out, stats = normalize_train_test_movies(train, test)
    assert stats["norm_mean"] == pytest.approx(train.mean(), rel=1e-5)
    assert stats["norm_std"] == pytest.approx(train.std(ddof=1), rel=1e-5)
    assert (normal.dtype, held_out.dtype) == (np.float32, np.float32)
    assert normal.mean() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(held_out * stats["norm_std"] + stats["norm_mean"], test, rtol=1e-4)
    with pytest.raises(ValueError, match="does not vary"):
        normalize_train_test_movies(np.ones((1, 4, 2, 2)), test)


def two_sessions(norms: tuple = ((10.0, 5.0), (10.4, 5.0)), shapes: tuple = ((4, 3), (4, 3))) -> tuple[dict, dict]:
    names = ("a", "b")
    neurons = {
        name: ResponsesTrainTestSplit(train=responses(n), test=responses(n, 9), session_kwargs={"depth": n})
        for name, n in zip(names, (5, 7), strict=True)
    }
    movies = {
        name: MoviesTrainTestSplit(
            train=movie(40, 2, *shape), test=movie(9, 2, *shape), norm_mean=norm[0], norm_std=norm[1]
        )
        for name, norm, shape in zip(names, norms, shapes, strict=True)
    }
    return neurons, movies


def test_data_info_has_the_published_keys() -> None:
    neurons, movies = two_sessions()
    info = compute_data_info(neurons, movies, {"species": "mouse"})
    assert set(info) == {
        "n_neurons_dict",
        "mean_activity_dict",
        "input_shape",
        "sessions_kwargs",
        "stim_mean",
        "stim_std",
        "species",
    }
    assert info["n_neurons_dict"] == {"a": 5, "b": 7}
    assert info["input_shape"] == (2, 4, 3)
    assert info["sessions_kwargs"] == {"a": {"depth": 5}, "b": {"depth": 7}}
    assert (info["stim_mean"], info["stim_std"]) == (10.0, 5.0)
    assert info["mean_activity_dict"]["b"].dtype == torch.float32
    np.testing.assert_allclose(info["mean_activity_dict"]["b"], neurons["b"].train.mean(1), rtol=1e-5)
    assert compute_data_info(neurons, movies["a"])["input_shape"] == (2, 4, 3)


def test_validation_responses_do_not_reach_the_mean_activity() -> None:
    neurons, movies = two_sessions()
    split = {"clip_length": 10, "num_val_clips": 2, "seed": 3}
    bins = training_bins(neurons, **split)
    before = compute_data_info(neurons, movies, training_bins=bins)["mean_activity_dict"]
    for session, each in neurons.items():
        each.train[:, ~bins[session]] += 1000.0
    after = compute_data_info(neurons, movies, training_bins=bins)["mean_activity_dict"]
    for session in neurons:
        assert (~bins[session]).sum() == 20
        assert torch.equal(before[session], after[session])
        expected = neurons[session].train[:, bins[session]].mean(1)
        np.testing.assert_allclose(after[session], expected, rtol=1e-5)


def test_sessions_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normalised alike.*norm_mean.*'b': 20\.0"):
        compute_data_info(*two_sessions(norms=((10.0, 5.0), (20.0, 5.0))))
    with pytest.raises(ValueError, match=r"normalised alike.*norm_std"):
        compute_data_info(*two_sessions(norms=((0.1, 0.2), (0.1, 0.3))))  # within the published tolerance of 1
    with pytest.raises(ValueError, match=r"share \(channel, height, width\)"):
        compute_data_info(*two_sessions(shapes=((4, 3), (4, 5))))
    with (
        pytest.warns(UserWarning, match="no movie says its norm_std"),
        pytest.warns(UserWarning, match="no movie says its norm_mean"),
    ):
        info = compute_data_info(*two_sessions(norms=((None, None), (None, None))))
    assert (info["stim_mean"], info["stim_std"]) == (0.0, 1.0)
    neurons, movies = two_sessions()
    with pytest.raises(ValueError, match=r"session 'b' has responses but no movies; there are \['a'\]"):
        compute_data_info(neurons, {"a": movies["a"]})
    neurons["b"].train[2, 3] = np.nan
    with pytest.raises(ValueError, match="session 'b' has training responses that are not finite"):
        compute_data_info(neurons, movies)
