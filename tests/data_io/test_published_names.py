"""Documented parts of the data side by their published names."""

import pickle
from itertools import islice

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from coread.data_io.base import ContainerError, DatasetStatistics, MoviesTrainTestSplit, ResponsesTrainTestSplit
from coread.data_io.base_dataloader import (
    DataPoint,
    MovieDataSet,
    MovieSampler,
    NeuronDataSplit,
    gen_shifts_with_boundaries,
    generate_movie_splits,
    get_movie_dataloader,
    multiple_movies_dataloaders,
)
from coread.data_io.cyclers import cycle
from coread.data_io.dataset_statistics import compute_dataloader_statistics
from coread.data_io.h5_dataset_reader import load_responses, load_stimuli
from coread.data_io.hoefling_2024.stimuli import movies_from_pickle
from coread.recording import RecordingError

MOVIE = torch.arange(46.0).view(2, 23, 1, 1)
RESPONSES = torch.arange(69.0).view(23, 3)


def test_cycle_never_ends_and_iterates_anew():
    assert list(islice(cycle([1, 2, 3]), 7)) == [1, 2, 3, 1, 2, 3, 1]
    torch.manual_seed(0)
    loader = DataLoader(list(range(20)), batch_size=None, shuffle=True)
    twice = list(islice(cycle(loader), 40))
    assert sorted(twice[:20]) == sorted(twice[20:]) == list(range(20))
    assert twice[:20] != twice[20:]
    for once in ([], iter([1, 2])):
        with pytest.raises(ValueError, match="no items"):
            list(cycle(once))


def test_movie_splits_keep_the_given_order():
    test = {"test": MOVIE[:, :4]}
    train, validation, same = generate_movie_splits(MOVIE, test, [3, 0], 4, 5)
    assert train[0, :, 0, 0].tolist() == list(range(5, 15))
    assert validation[0, :, 0, 0].tolist() == [*range(15, 20), *range(5)]
    assert same is test
    for wrong, num_clips, match in (([4], 4, "found \\[4\\]"), ([0, 0], 4, "found \\[0, 0\\]"), ([0], 5, "25 frames")):
        with pytest.raises(ContainerError, match=match):
            generate_movie_splits(MOVIE, {}, wrong, num_clips, 5)


def test_movie_dataset_gives_windows_without_copies():
    dataset = MovieDataSet(MOVIE, RESPONSES, np.arange(3), None, None, "train", 5)
    point = dataset[2]
    assert isinstance(point, DataPoint)
    assert (len(dataset), point.inputs.shape, point.targets.shape) == (4, (2, 5, 1, 1), (5, 3))
    assert point.inputs[0, :, 0, 0].tolist() == [2, 3, 4, 5, 6]
    assert point.targets[:, 0].tolist() == [6, 9, 12, 15, 18]
    assert point.inputs.data_ptr() == MOVIE[:, 2:].data_ptr()
    test = MovieDataSet(MOVIE, {"avg": RESPONSES, "by_trial": torch.zeros(4, 3, 23)}, None, None, None, "test", 23)
    assert (len(test), test[0].targets.shape, test.test_responses_by_trial.shape) == (1, (23, 3), (4, 3, 23))
    with pytest.raises(IndexError, match="starts at 19"):
        dataset[19]
    with pytest.raises(ContainerError, match=r"\(22, 3\)"):
        MovieDataSet(MOVIE, RESPONSES[1:], None, None, None, "train", 5)


@pytest.mark.parametrize(("over", "scene"), [(True, 10), (False, 10), (False, 5)])
def test_movie_sampler_moves_and_shuffles_within_its_bounds(over, scene):
    torch.manual_seed(0)
    given = [0, 5, 10, 15]
    sampler = MovieSampler(given, "train", 5, 20, scene, over)
    passes = [list(sampler) for _ in range(60)]
    assert len(sampler) == 4
    assert len({tuple(each) for each in passes}) > 10, "shuffled even where a scene is a sample"
    starts = np.sort(passes, axis=1)
    reached = [set(column) for column in starts.T]
    if over:
        assert set().union(*reached) == set(range(16))
    else:
        assert (starts // scene == (starts + 4) // scene).all(), "inside a scene"
        assert reached == ([{0, 1}, {5}, {10, 11}, {15}] if scene == 10 else [{0}, {5}, {10}, {15}])
    assert list(MovieSampler([10, 0], "validation", 5, 20, scene)) == [10, 0]
    loader = DataLoader(MovieDataSet(MOVIE, RESPONSES, None, None, None, "train", 5), batch_size=2, sampler=sampler)
    assert [tuple(point.inputs.shape) for point in loader] == [(2, 2, 5, 1, 1)] * 2
    with pytest.raises(ValueError, match="scenes of 4"):
        MovieSampler(given, "train", 5, 20, 4)


def test_shifts_stay_inside_clips():
    torch.manual_seed(0)
    drawn = np.array([gen_shifts_with_boundaries([0, 100, 150, 300], [0, 50, 60, 100, 220], 50) for _ in range(400)])
    assert [(column.min(), column.max()) for column in drawn.T] == [(0, 24), (50, 50), (50, 50), (100, 100), (220, 244)]
    assert set(drawn[:, 0]) == set(range(25))


def test_movie_loader_by_hand():
    torch.manual_seed(0)
    train = get_movie_dataloader(MOVIE, RESPONSES, split="train", scene_length=5, chunk_size=5, batch_size=2)
    assert [tuple(point.inputs.shape) for point in train] == [(2, 2, 5, 1, 1)] * 2, (
        "of five samples the last is dropped"
    )
    whole = get_movie_dataloader(
        MOVIE, RESPONSES, split="train", scene_length=5, chunk_size=5, batch_size=2, drop_last=False
    )
    assert sum(len(point.inputs) for point in whole) == 5
    shown = [
        point.inputs[0, 0, :, 0, 0].tolist()
        for point in get_movie_dataloader(
            MOVIE, RESPONSES, split="validation", scene_length=10, chunk_size=10, batch_size=1
        )
    ]
    assert shown == [list(range(10)), list(range(10, 20))]
    test = {"avg": RESPONSES, "by_trial": torch.zeros(4, 3, 23)}
    (point,) = get_movie_dataloader(MOVIE, test, split="test", scene_length=5, chunk_size=23, batch_size=1)
    assert torch.equal(point.targets[0], RESPONSES)
    missing = RESPONSES.clone()
    missing[3, 1] = torch.nan
    with pytest.raises(ContainerError, match="1 train responses are not finite"):
        get_movie_dataloader(MOVIE, missing, split="train", scene_length=5, chunk_size=5, batch_size=2)
    with pytest.raises(ValueError, match="scenes of 4"):
        get_movie_dataloader(
            MOVIE, RESPONSES, split="train", scene_length=4, chunk_size=5, batch_size=2, allow_over_boundaries=False
        )


def test_responses_are_split_as_the_movie_is():
    repeats = np.arange(24.0).reshape(4, 3, 2)
    responses = ResponsesTrainTestSplit(
        train=RESPONSES.numpy().T,
        test_dict={"a": repeats.mean(0), "b": np.ones((3, 5))},
        test_by_trial_dict={"a": repeats},
    )
    split = NeuronDataSplit(responses, [3, 0], 4, 5, key={"date": "today"})
    train, validation, _ = generate_movie_splits(MOVIE, {}, [3, 0], 4, 5)
    found = split.response_dict
    assert found["train"][:, 0].tolist() == (3 * train[0, :, 0, 0]).tolist()
    assert found["validation"][:, 0].tolist() == (3 * validation[0, :, 0, 0]).tolist()
    assert {name: each["avg"].shape for name, each in found["test"].items()} == {"a": (2, 3), "b": (5, 3)}
    assert torch.equal(found["test"]["a"]["by_trial"], torch.as_tensor(repeats, dtype=torch.float32))
    assert found["test"]["b"]["by_trial"] is None
    assert (split.num_neurons, split.key) == (3, {"date": "today"})
    with pytest.raises(ContainerError, match="5 clips of 5 bins need 25 bins of train responses, found 23"):
        NeuronDataSplit(responses, [0], 5, 5)


def test_statistics_count_different_frames():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(1, 60, 3, 2)), rng.normal(size=(1, 7, 3, 2))
    train[:, 7], test[:, 3] = train[:, 2], test[:, 2]
    train[0, 50, 0, 0], train[0, 51] = 0.0, train[0, 50]
    train[0, 51, 0, 0] = -0.0
    neurons = {
        name: ResponsesTrainTestSplit(train=np.ones((2, 60)), test_dict={"film": np.ones((2, 7))}) for name in "ab"
    }
    movies = MoviesTrainTestSplit(train=train, test_dict={"film": test}, norm_mean=0.0, norm_std=1.0)
    loaders = multiple_movies_dataloaders(neurons, movies, 5, clip_length=10, val_clip_indices=[5, 1])
    found = compute_dataloader_statistics(loaders)
    assert found.n_sessions == 2
    assert (found.unique_train_frames, found.unique_val_frames, found.unique_train_val_frames) == (39, 19, 58)
    assert (found.unique_test_frames, found.unique_test_transitions) == ({"film": 6}, {"film": 6})
    assert found.unique_val_transitions == 18
    assert 0 < found.unique_train_transitions <= 38
    assert compute_dataloader_statistics({}) == DatasetStatistics.empty()


@pytest.fixture
def folder(tmp_path):
    """Two sessions; one has a test film of its own that is not among the shared stimuli."""
    rng = np.random.default_rng(0)
    (tmp_path / "stimuli").mkdir()
    for name, n_frames in {"b": 12, "a": 10, "film": 8}.items():
        np.save(tmp_path / "stimuli" / f"{name}.npy", rng.normal(size=(2, n_frames, 4, 3)))
    for name in ("s0.hdf5", "s1.h5", "s2.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            for stimulus, n_frames in {"b": 12, "a": 10, "film": 8}.items():
                file[f"responses_{stimulus}"] = rng.random((3, n_frames))
            if name == "s1.h5":
                file["session_info/celltypes"] = np.arange(3)
                file["stimulus_own"], file["responses_own"] = np.full((2, 6, 4, 3), 9.0), rng.random((3, 6))
    return tmp_path


def test_hdf5_directory_as_containers(folder):
    movies = load_stimuli(folder, ["film"], [2, 4, 3], norm_mean=2.0, norm_std=4.0)
    responses = load_responses(folder, ["film"])
    assert list(movies) == list(responses) == ["s0", "s1", "s2"]
    stored = {name: np.load(folder / "stimuli" / f"{name}.npy") for name in ("a", "b", "film")}
    expected = (np.concatenate([stored["a"], stored["b"]], axis=1) - 2) / 4
    np.testing.assert_allclose(movies["s0"].train, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(movies["s0"].test_movie, (stored["film"] - 2) / 4, rtol=1e-5, atol=1e-6)
    assert (movies["s0"].norm_mean, movies["s0"].norm_std, movies["s0"].train.dtype) == (2.0, 4.0, np.float32)
    assert movies["s2"] is movies["s0"], "what two sessions saw is in memory once"
    np.testing.assert_allclose(movies["s1"].train[:, 22:], (9 - 2) / 4)
    with h5py.File(folder / "s1.h5") as file:
        joined = np.concatenate([file[f"responses_{name}"][()] for name in ("a", "b", "own")], axis=1)
        np.testing.assert_allclose(responses["s1"].train, joined, rtol=1e-6)
        np.testing.assert_allclose(responses["s1"].test_response, file["responses_film"][()], rtol=1e-6)
    assert responses["s1"].session_kwargs["celltypes"].tolist() == [0, 1, 2]
    assert responses["s1"].test_by_trial_dict == {}
    for session, each in responses.items():
        each.check_matching_stimulus(movies[session])


def test_what_an_hdf5_directory_lacks_is_named(folder):
    with pytest.raises(RecordingError, match=r"stimuli/a.npy has shape \(2, 10, 4, 3\).*color_channels=1"):
        load_stimuli(folder, ["film"], [1, 4, 3], 0.0, 1.0)
    with pytest.raises(RecordingError, match="unknown stimuli \\['nope'\\]"):
        load_responses(folder, ["nope"])
    with pytest.raises(ContainerError, match="norm_std"):
        load_stimuli(folder, ["film"], [2, 4, 3], 0.0, 0.0)
    with h5py.File(folder / "s2.h5", "a") as file:
        file["responses_film_by_trial"] = np.arange(96.0).reshape(4, 3, 8)
    repeats = load_responses(folder, ["film"])["s2"]
    assert repeats.test_by_trial_dict["film"].shape == (4, 3, 8)
    np.testing.assert_allclose(repeats.test_response, np.arange(96.0).reshape(4, 3, 8).mean(0))


def test_hoefling_movies_from_their_pickle(tmp_path):
    train, test = np.zeros((2, 30, 4, 3)), np.ones((2, 10, 4, 3))
    order = np.arange(6).reshape(3, 2).astype(np.uint8)
    content = {"train": train, "test": test, "random_sequences": order}
    (tmp_path / "movies.pkl").write_bytes(pickle.dumps(content))
    movies = movies_from_pickle(tmp_path / "movies.pkl")
    assert np.array_equal(movies.test_movie, test)
    assert np.array_equal(movies.random_sequences, order)
