"""Sridhar et al. 2025 under the published names: planted cells from the published files to samples of loaders."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from coread.data_io.sridhar_2025.constants import NM_DATASET, TEST_DATA_FRAMES, WN_DATASET
from coread.data_io.sridhar_2025.dataloader_utils import ChunkedSampler, split_trials
from coread.data_io.sridhar_2025.dataloaders import (
    MarmosetMovieDataset,
    NoiseDataset,
    frame_movie_loader,
    frame_overhead,
    white_noise_loader,
)
from tests.published_data.sridhar_2025 import CELLS, GAZE_OF, cropped, screen, write_natural_movie, write_white_noise

CROP = (35, 35, 55, 55)
SIZE = {"num_of_frames": [4, 3], "time_chunk_size": 20}  # overhead 3 + 2


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    written = write_natural_movie(folder, sessions=("01", "02"), n_trials=5, trial_length=110)
    retinas = ("01", "02")
    arguments = {
        "files": {retina: f"responses/cell_responses_{retina}_fixation_movie.pkl" for retina in retinas},
        "fixation_files": {retina: f"fixations/{GAZE_OF[retina]}" for retina in retinas},
        "big_crops": dict.fromkeys(retinas, CROP),
        "basepath": folder / NM_DATASET,
        "img_dir_name": "stimuli_padded_4",
        "full_img_w": 350,
        "full_img_h": 300,
        "padding": 50,
        "test_frames": 60,
    }
    return arguments | SIZE, written


@pytest.fixture(scope="module")
def loaders(film):
    return frame_movie_loader(**film[0], batch_size=2)


def assert_cells_answer(point, offset=0.0) -> None:
    """Every planted cell answers with its pixel `lag` frames before, in every bin of every sample."""
    overhead = point.inputs.shape[2] - point.targets.shape[1]
    for neuron, cell in enumerate(CELLS):
        seen = point.inputs[:, 0, :, cell.y, cell.x]
        expected = seen[:, overhead - cell.lag : seen.shape[1] - cell.lag] + offset
        torch.testing.assert_close(point.targets[..., neuron], expected, rtol=0, atol=1e-5)


def test_cells_of_the_movie_answer_to_the_frames_of_their_samples(film, loaders):
    assert {split: list(by_retina) for split, by_retina in loaders.items()} == {
        split: ["01", "02"] for split in ("train", "validation", "test")
    }
    for split, by_retina in loaders.items():
        for loader in by_retina.values():
            assert isinstance(loader, DataLoader)
            assert isinstance(loader.dataset, MarmosetMovieDataset)
            for point in loader:
                assert (point.inputs.shape[1:], point.targets.shape[1:]) == ((1, 25, 80, 90), (20, 4))
                assert_cells_answer(point, 0.015 if split == "test" else 0.0)


def test_samples_are_the_lines_of_their_trial(film, loaders):
    lines, images = film[1]["lines"][GAZE_OF["01"]], film[1]["images"]
    dataset = loaders["train"]["01"].dataset
    assert (dataset.num_of_trials, dataset.num_of_imgs, dataset.samples_per_trial, dataset.n_neurons) == (5, 110, 5, 4)
    assert dataset.frame_overhead == 5
    trial, part = dataset.indices[1], 3
    start = 60 + trial * 110 + part * 20
    expected = np.stack([screen(images, line) for line in lines[start : start + 25]])
    np.testing.assert_allclose(dataset[5 + 3].inputs[0], expected, atol=1e-6)
    with pytest.raises(IndexError, match="sample 20 is none"):
        dataset[len(dataset)]
    with pytest.raises(AttributeError, match="of training trials"):
        _ = dataset.responses


def test_the_test_sequence_is_there_as_a_whole(film, loaders):
    test = loaders["test"]["02"].dataset
    lines = film[1]["lines"][GAZE_OF["02"]][:60]
    expected = np.stack([screen(film[1]["images"], line) for line in lines])
    np.testing.assert_allclose(test.movies[0], expected, atol=1e-6)
    assert test.test_responses_by_trial.shape == (4, 4, 60), "(repeat, neuron, time), as everywhere"
    torch.testing.assert_close(test.responses, test.test_responses_by_trial.mean(0).T)
    torch.testing.assert_close(test[1].targets, test.responses[25:45])


def test_trials_are_split_and_chosen(film):
    by_hand = frame_movie_loader(**film[0], hard_coded=[[4, 0], [2]], retina_index="02", cell_index=2, subsample=2)
    train, validation = by_hand["train"]["02"].dataset, by_hand["validation"]["02"].dataset
    assert (train.indices, validation.indices, list(by_hand["train"])) == ([4, 0], [2], ["02"])
    assert (train[0].inputs.shape, train[0].targets.shape) == ((1, 25, 40, 45), (20, 1))
    whole = frame_movie_loader(**film[0], retina_index="02")["train"]["02"].dataset
    other = whole.indices.index(0)
    torch.testing.assert_close(train[5].targets[:, 0], whole[5 * other].targets[:, 2])
    torch.testing.assert_close(train[5].inputs, whole[5 * other].inputs[..., ::2, ::2])
    excluded = frame_movie_loader(**film[0], excluded_cells={"01": [1]}, retina_index="01")["test"]["01"].dataset
    assert excluded.n_neurons == 3
    with pytest.raises(ValueError, match="cell_index 4 is none of the 4 cells of retina 02"):
        frame_movie_loader(**film[0], retina_index="02", cell_index=4)
    with pytest.raises(ValueError, match="session '01': samples of 200"):
        frame_movie_loader(**film[0] | {"time_chunk_size": 200})


def test_the_published_draw_of_trials():
    permutation = np.random.RandomState(1000)
    while True:
        drawn = permutation.permutation(20)
        train = set(drawn[:16])
        if ({0, 9} <= train or not {0, 9} & train) and ({10, 19} <= train or not {10, 19} & train):
            break
    found = split_trials(20, 0.8)
    assert (set(found[0]), set(found[1])) == (train, set(range(20)) - train)
    assert split_trials(20, 0.8, final_training=True) == (list(range(20)), found[1])
    some = split_trials(20, 0.8, num_of_trials_to_use=6, start_using_trial=3)
    assert sorted(some[0] + some[1]) == [3, 4, 5, 6, 7, 8]
    assert split_trials(20, 0.8, seed=1) != found
    with pytest.raises(ValueError, match=r"trials \[7\] are none of the 5"):
        split_trials(5, 0.8, hard_coded=[[1], [7]])


def test_overhead_is_the_lag_of_all_layers():
    assert frame_overhead(15, 2, 1) == 28
    assert frame_overhead([21, 11, 5], 1, 1) == 20 + 10 + 4
    assert frame_overhead([21, 11, 5], 1, [2, 3]) == 20 + 20 + 12
    with pytest.raises(ValueError, match="2 hidden layers need as many dilations"):
        frame_overhead([21, 11, 5], 1, [2])


def test_cells_of_white_noise_answer_to_the_frames_of_their_samples(tmp_path):
    movies = write_white_noise(tmp_path, sessions=("01", "04"), n_trials=3, trial_length=70, n_test=50)
    loaders = white_noise_loader(
        tmp_path / WN_DATASET,
        {retina: f"responses/cell_responses_{retina}_wn.pkl" for retina in ("01", "04")},
        dict.fromkeys(("01", "04"), CROP),
        {"01": "non_repeating_stimuli_1", "04": "non_repeating_stimuli_2"},
        {"01": "repeating_stimuli_1", "04": "repeating_stimuli_2"},
        train_frac=0.7,
        **SIZE,
    )
    for by_retina in loaders.values():
        for loader in by_retina.values():
            assert isinstance(loader.dataset, NoiseDataset)
            for point in loader:
                assert_cells_answer(point)
    dataset = loaders["validation"]["04"].dataset
    (trial,) = dataset.indices
    published = cropped(movies[f"non_repeating_stimuli_2/trial_{trial:03d}"])[20:45]
    np.testing.assert_array_equal(dataset[1].inputs[0], published)
    assert isinstance(loaders["train"]["01"].sampler, ChunkedSampler)


def test_samples_come_trial_by_trial_in_a_new_order():
    class Trials:
        samples_per_trial = 6

        def __len__(self) -> int:
            return 30

    sampler, again = ChunkedSampler(Trials(), seed=3), ChunkedSampler(Trials(), seed=3)
    passes = [list(sampler) for _ in range(4)]
    assert len(sampler) == 30
    assert passes == [list(again) for _ in range(4)]
    for order in passes:
        assert sorted(order) == list(range(30))
        trials = np.array(order).reshape(5, 6) // 6
        assert (trials == trials[:, :1]).all()
    assert len({tuple(order) for order in passes}) == 4
    assert len({tuple(np.array(order)[::6] // 6) for order in passes}) > 1, "trials change places"


def test_facts_by_their_names():
    assert (TEST_DATA_FRAMES, NM_DATASET.rsplit("/")[-1], WN_DATASET.rsplit("/")[-1]) == (
        5100,
        "natural_movie",
        "whitenoise",
    )
