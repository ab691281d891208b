"""Containers and recordings are two views of the same data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.config import compose, stage_slice
from coread.data_io.base import MoviesTrainTestSplit, ResponsesTrainTestSplit
from coread.data_io.conversion import containers_from_recordings, recordings_from_containers
from coread.eval.predictions import predict_member
from coread.recording import Recording, Stimulus, read_recording, validate, write_recording
from coread.training import train

Maker = Callable[..., Recording]


@st.composite
def sessions(draw: st.DrawFn) -> tuple[dict[str, ResponsesTrainTestSplit], dict[str, MoviesTrainTestSplit]]:
    """Draw containers of one to three sessions, some of which share their movies."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_channels, height, width = draw(st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 4)))
    n_train = draw(st.integers(5, 30))
    tests = {
        name: draw(st.integers(2, 12)) for name in draw(st.sets(st.sampled_from(["noise", "natural"]), min_size=1))
    }
    dtype = draw(st.sampled_from([np.uint8, np.int8, np.float16, np.float32, np.float64]))
    norm = draw(st.sampled_from([(None, None), (0.0, 1.0), (36.9, 35.0)]))

    def movies() -> MoviesTrainTestSplit:
        def make(n: int) -> np.ndarray:
            return rng.integers(-100, 100, (n_channels, n, height, width)).astype(dtype)

        return MoviesTrainTestSplit(make(n_train), {k: make(n) for k, n in tests.items()}, None, None, None, *norm)

    shared, movies_dictionary, neurons = movies(), {}, {}
    for index in range(draw(st.integers(1, 3))):
        n_neurons = draw(st.integers(1, 4))
        repeats = {k: rng.random((draw(st.integers(1, 3)), n_neurons, n), np.float32) for k, n in tests.items()}
        neurons[f"session_{index}"] = ResponsesTrainTestSplit(
            train=rng.random((n_neurons, n_train), np.float32),
            test_dict={k: values.mean(0, dtype=np.float64).astype(np.float32) for k, values in repeats.items()},
            test_by_trial_dict=repeats,
            session_kwargs={"depth": np.float64(index), "celltypes": np.arange(n_neurons)},
        )
        movies_dictionary[f"session_{index}"] = shared if draw(st.booleans()) else movies()
    return neurons, movies_dictionary


@pytest.mark.filterwarnings("ignore:the train .* has more")
@settings(max_examples=60, deadline=None)
@given(sessions())
def test_containers_come_back_from_recordings_without_copies_of_movies(
    drawn: tuple[dict[str, ResponsesTrainTestSplit], dict[str, MoviesTrainTestSplit]],
) -> None:
    neurons, movies = drawn
    recordings = recordings_from_containers(neurons, movies, rate_hz=30.0)
    assert [recording.session for recording in recordings] == list(neurons)
    back, back_movies = containers_from_recordings(recordings)
    for session, each in neurons.items():
        np.testing.assert_array_equal(back[session].train, each.train)
        assert set(back[session].test_dict) == set(each.test_dict)
        for name, values in each.test_dict.items():
            np.testing.assert_array_equal(back[session].test_by_trial_dict[name], each.test_by_trial_dict[name])
            np.testing.assert_allclose(back[session].test_dict[name], values, rtol=1e-6)
        for key, value in each.session_kwargs.items():
            np.testing.assert_array_equal(back[session].session_kwargs[key], value)
        pairs = [(movies[session].train, back_movies[session].train)]
        pairs += [(movie, back_movies[session].test_dict[name]) for name, movie in movies[session].test_dict.items()]
        for movie, returned in pairs:
            assert np.shares_memory(movie, returned)
            assert returned.dtype == movie.dtype
            np.testing.assert_array_equal(returned, movie)
        assert back_movies[session].norm_mean == (movies[session].norm_mean or 0.0)
        assert back_movies[session].norm_std == (movies[session].norm_std or 1.0)
    assert len({id(m) for m in back_movies.values()}) == len({id(m) for m in movies.values()})


def test_sessions_with_the_same_movie_share_one_array(make_containers: Callable) -> None:
    neurons, movies = make_containers()
    first, second = recordings_from_containers(neurons, movies, rate_hz=30.0)
    assert first.stimuli["train"].frames is second.stimuli["train"].frames


def test_one_array_in_two_units_is_two_stimuli(make_containers: Callable) -> None:
    neurons, movies = make_containers()
    other = replace(movies, norm_mean=-1.0, norm_std=2.0)
    assert other.train is movies.train
    first, second = recordings_from_containers(neurons, {"a": movies, "b": other}, rate_hz=30.0)
    assert (first.stimuli["train"].offset, first.stimuli["train"].scale) == (50.0, 20.0)
    assert (second.stimuli["train"].offset, second.stimuli["train"].scale) == (-1.0, 2.0)
    assert second.stimuli["train"].blank_value == -1.0
    assert np.shares_memory(first.stimuli["train"].frames, second.stimuli["train"].frames)
    assert first.stimuli["train"].digest() != second.stimuli["train"].digest()


@pytest.fixture
def make_containers() -> Callable:
    """Return two sessions that saw one movie; neuron n follows pixel n of the frame before, with repeats."""

    def make() -> tuple[dict[str, ResponsesTrainTestSplit], MoviesTrainTestSplit]:
        rng = np.random.default_rng(0)
        movies = MoviesTrainTestSplit(
            train=rng.standard_normal((1, 600, 4, 5)).astype(np.float32),
            test=rng.standard_normal((1, 80, 4, 5)).astype(np.float32),
            norm_mean=50.0,
            norm_std=20.0,
        )

        def follow(movie: np.ndarray, pixels: np.ndarray) -> np.ndarray:
            values = movie.reshape(movie.shape[1], -1)[:, pixels].T
            return np.exp(0.7 * np.roll(values, 1, axis=1)).astype(np.float32)

        neurons = {}
        for session, pixels in {"a": np.arange(3), "b": np.arange(4, 9)}.items():
            repeats = rng.poisson(follow(movies.test_movie, pixels), (4, len(pixels), 80)).astype(np.float32)
            neurons[session] = ResponsesTrainTestSplit(
                train=follow(movies.train, pixels), test=repeats.mean(0), test_by_trial=repeats
            )
        return neurons, movies

    return make


def test_containers_train_a_member(make_containers: Callable, tmp_path) -> None:
    neurons, movies = make_containers()
    recordings = recordings_from_containers(neurons, movies, rate_hz=30.0)
    overrides = ["splits.clip_length=60", "dataloader.window_length=30", "model.hidden_channels=[4]"]
    overrides += ["model.core.temporal_kernel_sizes=[3]", "model.core.spatial_kernel_sizes=[1]", "loss=poisson"]
    overrides += [
        "model.readout.nonlinearity_function=softplus",
        "trainer.max_epochs=25",
        "dataloader.response_scale=none",
    ]
    settings = stage_slice(compose("hdf5_core_readout", overrides), "train")
    member = train(settings, recordings, 0, 0, work_dir=tmp_path, accelerator="cpu", progress_bar=False)
    # in physical values, and from training bins only
    assert member.data_info["stim_mean"] == pytest.approx(50.0, abs=1.0)
    assert member.data_info["stim_std"] == pytest.approx(20.0, abs=0.5)
    prediction = predict_member(member, recordings, experiment="x").sessions["a"].prediction
    test = recordings[0].bin_column("tier") == "test"
    predicted, mean = prediction[test][:80], neurons["a"].test_response.T
    known = np.isfinite(predicted).all(axis=1)
    correlations = [np.corrcoef(predicted[known, n], mean[known, n])[0, 1] for n in range(3)]
    assert np.mean(correlations) > 0.6, correlations


def test_trial_borders_can_be_named(make_containers: Callable) -> None:
    neurons, movies = make_containers()
    recording, _ = recordings_from_containers(neurons, movies, rate_hz=30.0, trial_offsets={"train": [0, 150, 400]})
    first, stop = recording.trial_bounds()
    assert list(zip(first[:3], stop[:3], strict=True)) == [(0, 150), (150, 400), (400, 600)]
    _, back = containers_from_recordings([recording])
    assert np.shares_memory(back["a"].train, movies.train)


def test_padded_repeats_are_masked_and_leave_the_mean(make_containers: Callable) -> None:
    neurons, movies = make_containers()
    neurons["a"].test_by_trial_dict["test"][3, :, 60:] = np.nan
    recording = recordings_from_containers(neurons, movies, rate_hz=30.0)[0]
    assert int((~recording.valid).sum()) == 20
    back, _ = containers_from_recordings([recording])
    expected = np.nanmean(neurons["a"].test_by_trial_dict["test"], axis=0)
    np.testing.assert_allclose(back["a"].test_response, expected, rtol=1e-5)
    assert np.isnan(back["a"].test_by_trial_dict["test"]).sum() == 60


@pytest.mark.parametrize("where", ["train", "repeat"])
def test_missing_responses_are_an_error_that_names_the_session(make_containers: Callable, where: str) -> None:
    neurons, movies = make_containers()
    target = neurons["b"].train if where == "train" else neurons["b"].test_by_trial_dict["test"][2]
    target[1, 7] = np.nan
    name = "train" if where == "train" else "test"
    with pytest.raises(ValueError, match=f"session 'b': 1 {name} responses are not finite"):
        recordings_from_containers(neurons, movies, rate_hz=30.0)


def test_session_kwargs_that_cannot_be_stored_are_an_error(make_containers: Callable) -> None:
    neurons, movies = make_containers()
    neurons["a"].session_kwargs["settings"] = {"gain": 3}
    with pytest.raises(ValueError, match=r"session 'a': session_kwargs\['settings'\] must be numbers or texts"):
        recordings_from_containers(neurons, movies, rate_hz=30.0)


def test_a_written_recording_is_the_same_container(make_containers: Callable, tmp_path) -> None:
    neurons, movies = make_containers()
    write_recording(recordings_from_containers(neurons, movies, rate_hz=30.0)[0], tmp_path / "a.h5")
    back, back_movies = containers_from_recordings([read_recording(tmp_path / "a.h5")])
    np.testing.assert_array_equal(back["a"].train, neurons["a"].train)
    np.testing.assert_array_equal(back_movies["a"].train, movies.train)
    assert (back_movies["a"].norm_mean, back_movies["a"].norm_std) == (50.0, 20.0)


# ------------------------------------------------------------------------------------------ recordings of other readers


def test_a_recording_in_its_own_order_is_a_view(make_recording: Maker) -> None:
    recording = make_recording()
    _, movies = containers_from_recordings([recording])
    assert np.shares_memory(movies["session_0"].train, recording.stimuli["movie"].frames)
    np.testing.assert_array_equal(
        movies["session_0"].train, np.asarray(recording.stimuli["movie"].frames).transpose(1, 0, 2, 3)
    )


def test_permuted_mirrored_and_blank_presentations_are_written_as_shown(make_recording: Maker) -> None:
    recording = make_recording()
    order = np.random.default_rng(1).permutation(180).astype(np.int32)
    frame = np.concatenate([order, recording.frame[180:]])
    frame[5] = -1
    stimuli = {name: replace(each, scale=2.0, offset=3.0, blank_value=9.0) for name, each in recording.stimuli.items()}
    shown = replace(recording, frame=frame, mirror="width", stimuli=stimuli)
    validate(shown)
    _, movies = containers_from_recordings([shown, replace(shown, session="again")])
    expected = np.asarray(recording.stimuli["movie"].frames, np.float32)[np.maximum(frame[:180], 0)] * 2 + 3
    expected[5] = 9.0
    np.testing.assert_array_equal(movies["session_0"].train, expected[..., ::-1].transpose(1, 0, 2, 3))
    assert (movies["session_0"].norm_mean, movies["session_0"].norm_std) == (0.0, 1.0)
    assert movies["again"] is movies["session_0"]  # written out once


def test_stimuli_of_several_trials_follow_each_other_in_time(make_recording: Maker) -> None:
    recording = make_recording()
    stimuli = recording.stimuli | {"second": Stimulus(np.array(recording.stimuli["movie"].frames)[::-1].copy(), 30.0)}
    trials = recording.trials.copy()
    trials.loc[1, "stimulus"] = "second"
    trials.loc[[0, 1, 2], "time_order"] = [2, 0, 1]
    mixed = replace(recording, stimuli=stimuli, trials=trials)
    responses, movies = containers_from_recordings([mixed])
    bins = np.concatenate([np.arange(60, 120), np.arange(120, 180), np.arange(60)])
    np.testing.assert_array_equal(responses["session_0"].train, recording.responses[bins].T)
    shown = np.concatenate(
        [stimuli["second"].frames[60:120], stimuli["movie"].frames[120:180], stimuli["movie"].frames[:60]]
    )
    np.testing.assert_array_equal(movies["session_0"].train, shown.transpose(1, 0, 2, 3))


def test_what_containers_cannot_express_is_an_error(make_recording: Maker) -> None:
    recording = make_recording()
    valid = recording.valid.copy()
    valid[[3, 4]] = False
    with pytest.raises(ValueError, match="session 'session_0': 2 training bins are masked"):
        containers_from_recordings([replace(recording, valid=valid)])
    with pytest.raises(ValueError, match=r"need training and test trials, the tiers are \['train'\]"):
        containers_from_recordings([replace(recording, trials=recording.trials.assign(tier="train"))])
    frame = recording.frame.copy()
    frame[-1] = 0
    with pytest.raises(ValueError, match="repeats of test stimulus 'test' do not all show the same frames"):
        containers_from_recordings([replace(recording, frame=frame)])


def test_withheld_trials_are_left_out(make_recording: Maker) -> None:
    recording = make_recording(n_repeats=4)
    trials = recording.trials.copy()
    trials.loc[len(trials) - 1, "withheld"] = True
    responses, _ = containers_from_recordings([replace(recording, trials=trials)])
    repeats = responses["session_0"].get_test_by_trial("test")
    assert repeats is not None
    assert repeats.shape == (3, 4, 30)
