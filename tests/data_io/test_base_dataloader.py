"""The documented loaders: what is in a batch, what is held out, and what never happens at the border of a clip."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import DataLoader

from coread.data_io.base import MoviesTrainTestSplit, ResponsesTrainTestSplit, compute_data_info
from coread.data_io.base_dataloader import DataPoint, multiple_movies_dataloaders, training_bins
from coread.data_io.cyclers import LongCycler, ShortCycler
from coread.models import ExampleCoreReadout

N_FRAMES = 1000


def counting(n_frames: int = N_FRAMES, n_tests: int = 1) -> tuple[dict, dict]:
    """Return sessions whose movie and responses tell the number of each frame."""
    count = np.arange(n_frames, dtype=np.float32)
    movies = MoviesTrainTestSplit(
        train=np.broadcast_to(count[None, :, None, None], (1, n_frames, 3, 2)).copy(),
        test_dict={f"test_{i}": np.full((1, 70 + i, 3, 2), -1.0, np.float32) for i in range(n_tests)},
        norm_mean=4.0,
        norm_std=2.0,
    )
    neurons = {
        session: ResponsesTrainTestSplit(
            train=np.tile(count, (n, 1)), test_dict={f"test_{i}": np.ones((n, 70 + i)) for i in range(n_tests)}
        )
        for session, n in {"a": 2, "b": 5}.items()
    }
    return neurons, dict.fromkeys(neurons, movies)


def frames_of(loader: DataLoader) -> list[np.ndarray]:
    """Return the frame numbers of every sample of one pass, after checking that inputs and targets agree."""
    samples = []
    for point in loader:
        shown = point.inputs[:, 0, :, 0, 0]
        assert torch.equal(shown, point.targets[:, :, 0])
        samples += list(shown.numpy().astype(int))
    return samples


def test_loaders_by_split_and_session() -> None:
    loaders = multiple_movies_dataloaders(*counting(n_tests=2), batch_size=4, num_val_clips=6)
    assert list(loaders) == ["train", "validation", "test_0", "test_1"]
    assert all(list(by_session) == ["a", "b"] for by_session in loaders.values())
    point = next(iter(loaders["train"]["b"]))
    assert isinstance(point, DataPoint)
    inputs, targets = point
    assert (inputs.shape, targets.shape) == ((4, 1, 50, 3, 2), (4, 50, 5))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.float32)
    assert [point.inputs.shape for point in loaders["validation"]["a"]] == [(4, 1, 100, 3, 2), (2, 1, 100, 3, 2)]
    assert [point.inputs.shape for point in loaders["test_1"]["a"]] == [(1, 1, 71, 3, 2)]
    assert all(len(loader) == len(list(loader)) for by_session in loaders.values() for loader in by_session.values())


def test_validation_clips_are_the_published_draw_or_those_named() -> None:
    neurons, movies = counting()
    loaders = multiple_movies_dataloaders(neurons, movies, num_val_clips=3)
    expected = np.random.RandomState(42).choice(10, 3, replace=False)
    assert [sample[0] // 100 for sample in frames_of(loaders["validation"]["a"])] == list(expected) == [8, 1, 5]
    named = multiple_movies_dataloaders(neurons, movies, val_clip_indices=[7, 0])
    assert [list(sample) for sample in frames_of(named["validation"]["a"])] == [
        list(range(700, 800)),
        list(range(100)),
    ]


@pytest.mark.parametrize("over", [True, False])
def test_training_windows_never_join_what_was_apart(over: bool) -> None:
    loaders = multiple_movies_dataloaders(*counting(1030), num_val_clips=4, allow_over_boundaries=over)
    held_out = {frame for sample in frames_of(loaders["validation"]["a"]) for frame in sample}
    assert len(held_out) == 400
    crossing = 0
    for _ in range(6):
        samples = frames_of(loaders["train"]["a"])
        for sample in samples:
            assert np.array_equal(sample, np.arange(sample[0], sample[0] + 50))
            assert not held_out & set(sample)
            crossing += min(sample[0] // 100, 9) != min(sample[-1] // 100, 9)
        bins = training_bins({"a": counting(1030)[0]["a"]}, num_val_clips=4)["a"]
        assert set(np.concatenate(samples)) == set(np.flatnonzero(bins))  # every training bin in every pass
    assert (crossing > 0) == over


@pytest.mark.parametrize(("chunk", "clip"), [(1, 1), (10, 10), (50, 100)])
def test_the_training_order_changes_whatever_the_length(chunk: int, clip: int) -> None:
    arguments = {"train_chunk_size": chunk, "clip_length": clip, "num_val_clips": 4, "allow_over_boundaries": False}
    first, again = (multiple_movies_dataloaders(*counting(), **arguments)["train"] for _ in range(2))
    orders = [[sample[0] for sample in frames_of(first["a"])] for _ in range(2)]
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    assert orders[0] == [sample[0] for sample in frames_of(again["a"])]  # the same seed draws the same passes
    assert orders[0] != [sample[0] for sample in frames_of(first["b"])]


def test_a_session_with_missing_responses_is_an_error_that_names_it() -> None:
    neurons, movies = counting()
    neurons["b"].train[1, 3] = np.nan
    with pytest.raises(ValueError, match="session 'b': 1 train responses are not finite"):
        multiple_movies_dataloaders(neurons, movies)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_val_clips": 11}, "session 'a', 1000 frames, clips of 100: 11 validation clips were asked for"),
        ({"val_clip_indices": [10]}, r"session 'a'.*\[10\] lie outside the stimulus' 10 clips"),
        (
            {"train_chunk_size": 101, "num_val_clips": 2, "allow_over_boundaries": False},
            "session 'a': no stretch of training frames has train_chunk_size=101",
        ),
    ],
)
def test_impossible_clips_are_an_error(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiple_movies_dataloaders(*counting(), **arguments)


def test_no_copy_of_the_movie_is_made() -> None:
    neurons, movies = counting()
    loaders = multiple_movies_dataloaders(neurons, movies, num_val_clips=2)
    for session in neurons:
        for split in ("train", "validation", "test_0"):
            held = loaders[split][session].dataset.windows.recording.stimuli["train"].frames
            assert np.shares_memory(held, movies[session].train)


def test_workers_read_the_same_batches() -> None:
    loader = multiple_movies_dataloaders(*counting(), num_val_clips=2)["validation"]["a"]
    apart = DataLoader(loader.dataset, batch_size=None, sampler=loader.sampler, num_workers=2)
    for here, there in zip(loader, apart, strict=True):
        assert torch.equal(here.inputs, there.inputs)
        assert torch.equal(here.targets, there.targets)


def test_a_lightning_trainer_fits_a_model_to_the_loaders() -> None:
    rng = np.random.default_rng(0)
    movie, test = rng.standard_normal((1, 900, 6, 6)).astype(np.float32), rng.standard_normal((1, 100, 6, 6))
    past = sliding_window_view(np.pad(movie[0, :, 2, 3], (2, 0)), 3).mean(-1)
    neurons = {
        key: ResponsesTrainTestSplit(train=np.exp(sign * past)[None].repeat(2, 0), test=np.ones((2, 100)))
        for key, sign in {"on": 1.0, "off": -1.0}.items()
    }
    movies = MoviesTrainTestSplit(train=movie, test=test.astype(np.float32), norm_mean=0.0, norm_std=1.0)
    loaders = multiple_movies_dataloaders(neurons, movies, 30, 4, clip_length=90, num_val_clips=2)
    info = compute_data_info(neurons, movies)
    model = ExampleCoreReadout(
        (1, 30, 6, 6), (4,), (5,), (3,), info["n_neurons_dict"], learning_rate=0.02, data_info=info
    )
    trainer = pl.Trainer(
        max_epochs=30,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        model,
        DataLoader(LongCycler(loaders["train"], shuffle=True), batch_size=None),
        DataLoader(ShortCycler(loaders["validation"]), batch_size=None),
    )
    assert float(trainer.callback_metrics["val_correlation"]) > 0.8
