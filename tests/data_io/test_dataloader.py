"""Windows: right frames beside right responses, every bin, nothing of another label."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.dataloader import Runs, SessionWindows, find_runs, read_rows, tile_evenly, tile_randomly
from coread.data_io.splits import TEST, TRAIN, UNUSED, VALIDATION, label_bins
from coread.data_io.statistics import compute_statistics
from coread.recording import BLANK, read_recording, write_recording
from tests.conftest import fabricate_recording

SPLIT = {"method": "folds", "n_folds": 3, "clip_length": 20, "seed": 0}


def make_windows(recording, *, label=TRAIN, lag=5, window_length=16, batch_size=4, response_scale="none"):
    labels = label_bins(recording, SPLIT, 0, lag)
    statistics = compute_statistics([recording], {recording.session: labels}, response_scale=response_scale)
    windows = SessionWindows(
        recording,
        labels,
        label,
        lag=lag,
        window_length=window_length,
        batch_size=batch_size,
        statistics=statistics,
    )
    return windows, labels, statistics


def counted_pairs(windows, batches):
    """Return (frame content, response) of every counted bin, in order."""
    pairs = []
    for inputs, targets, mask, _ in batches:
        assert inputs.shape[2] == targets.shape[1] == mask.shape[1] == windows.window_length
        for item, place in np.argwhere(mask.numpy()):
            if place >= windows.lag:
                pairs.append((inputs[item, :, place].numpy(), targets[item, place].numpy()))
    return pairs


@pytest.mark.parametrize("label", [TRAIN, VALIDATION, TEST])
def test_every_bin_comes_once_with_its_own_frame(make_recording, label):
    recording = make_recording()
    windows, labels, statistics = make_windows(recording, label=label)
    pairs = counted_pairs(windows, windows.in_order())
    bins = np.flatnonzero(labels == label)
    assert len(pairs) == len(bins)
    names = recording.bin_column("stimulus")
    for (frame, response), bin_index in zip(pairs, bins, strict=True):
        shown = recording.stimuli[names[bin_index]].frames[recording.frame[bin_index]].astype(np.float64)
        np.testing.assert_allclose(frame, (shown - statistics.stim_mean) / statistics.stim_std, atol=1e-5)
        np.testing.assert_array_equal(response, recording.responses[bin_index])


def test_the_frames_before_a_bin_are_its_past(make_recording):
    recording = make_recording()
    windows, labels, statistics = make_windows(recording, label=VALIDATION)
    inputs, _, mask, _ = next(iter(windows.in_order()))
    first_bin = np.flatnonzero(labels == VALIDATION)[0]
    assert mask[0, windows.lag]
    for place in range(windows.lag + 1):
        shown = recording.stimuli["movie"].frames[recording.frame[first_bin - windows.lag + place]].astype(np.float64)
        expected = (shown - statistics.stim_mean) / statistics.stim_std
        np.testing.assert_allclose(inputs[0, :, place].numpy(), expected, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    n_out=st.integers(1, 20),
    seed=st.integers(0, 10),
)
def test_tilings_cover_every_bin_and_keep_their_number(lengths, n_out, seed):
    stop = np.cumsum(np.array(lengths) + 3)
    runs = Runs(stop - np.array(lengths), stop)
    inside = np.concatenate([np.arange(a, b) for a, b in zip(runs.first, runs.stop, strict=True)])
    random = tile_randomly(runs, n_out, np.random.default_rng(seed))
    again = tile_randomly(runs, n_out, np.random.default_rng(seed + 1))
    assert len(random.first) == len(again.first)
    assert set(inside.tolist()) == set(bins_of(random, n_out))
    for start in random.first:  # a window leaves its run only if the run is shorter than the window
        run = np.flatnonzero((runs.first <= start) & (start < runs.stop))
        assert len(run) == 1
        assert start + n_out <= max(runs.stop[run[0]], runs.first[run[0]] + n_out)
    assert bins_of(tile_evenly(runs, n_out), n_out) == inside.tolist()


def bins_of(windows, n_out):
    """Return the bins that count in these windows, with repetition."""
    bins = windows.first[:, None] + np.arange(n_out)
    return bins[bins < windows.stop[:, None]].tolist()


def test_random_windows_move_and_train_bins_alone_count(make_recording):
    recording = make_recording(trial_length=100)
    windows, labels, _ = make_windows(recording)
    one = windows.shuffled(np.random.default_rng(0))
    other = windows.shuffled(np.random.default_rng(1))
    assert sorted(one.windows.first) != sorted(other.windows.first)
    bins = one.windows.first[:, None] - windows.lag + np.arange(windows.window_length)
    masks = torch.cat([point.mask for point in one]).numpy()
    assert (labels[bins[masks]] == TRAIN).all()
    assert set(np.flatnonzero(labels == TRAIN)) <= set(bins[masks])


def test_later_passes_of_an_epoch_are_drawn_anew_and_reproducibly(make_recording):
    windows, _, _ = make_windows(make_recording(trial_length=100))
    one, same, other = (windows.shuffled(np.random.default_rng(seed)) for seed in (0, 0, 1))
    later = [one.again(1), one.again(2), other.again(1)]
    starts = [batches.windows.first.tolist() for batches in (one, *later)]
    assert len({tuple(first) for first in starts}) == 4
    assert {len(batches) for batches in (one, *later)} == {len(one)}
    assert same.again(2).windows.first.tolist() == starts[2]
    in_order = windows.in_order()
    assert in_order.again(1) is in_order


def test_runs_stop_at_trial_borders(make_recording):
    recording = make_recording(n_trials=3, trial_length=10, n_repeats=1, test_length=4)
    runs = find_runs(recording, np.full(34, TRAIN, np.int8), TRAIN)
    assert runs.first.tolist() == [0, 10, 20, 30]
    assert runs.stop.tolist() == [10, 20, 30, 34]
    assert len(find_runs(recording, np.full(34, UNUSED, np.int8), TRAIN).first) == 0


def test_streamed_windows_equal_loaded_windows(make_recording, tmp_path):
    recording = make_recording()
    write_recording(recording, tmp_path / "s.h5")
    lazy = read_recording(tmp_path / "s.h5", load_frames=False, load_responses=False)
    loaded, _, _ = make_windows(recording, response_scale="std")
    streamed, _, _ = make_windows(lazy, response_scale="std")
    drawn = loaded.shuffled(np.random.default_rng(0)).windows
    for a, b in zip(loaded.batch(drawn), streamed.batch(drawn), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_blank_and_mirrored_stimuli(make_recording):
    recording = make_recording()
    frame = recording.frame.copy()
    frame[8] = BLANK
    stimuli = {name: replace(stimulus, blank_value=50.0) for name, stimulus in recording.stimuli.items()}
    plain, _, statistics = make_windows(replace(recording, frame=frame, stimuli=stimuli), lag=0, window_length=10)
    mirrored, _, _ = make_windows(
        replace(recording, frame=frame, stimuli=stimuli, mirror="width"), lag=0, window_length=10
    )
    inputs = plain.batch(Runs(np.array([0]), np.array([10]))).inputs
    torch.testing.assert_close(inputs.flip(-1), mirrored.batch(Runs(np.array([0]), np.array([10]))).inputs)
    expected = (50.0 - statistics.stim_mean) / statistics.stim_std
    torch.testing.assert_close(inputs[0, :, 8], torch.full((1, 6, 8), expected))


def test_masked_nan_never_reaches_a_batch(make_recording):
    recording = make_recording()
    responses, valid = recording.responses.copy(), recording.valid.copy()
    responses[30:35], valid[30:35] = np.nan, False
    windows, _, _ = make_windows(replace(recording, responses=responses, valid=valid))
    for point in windows.in_order():
        assert torch.isfinite(point.targets).all()


def test_reads_on_disk_are_one_per_stretch(make_recording, tmp_path):
    recording = make_recording()
    write_recording(recording, tmp_path / "s.h5")
    frames = read_recording(tmp_path / "s.h5", load_frames=False).stimuli["movie"].frames
    rows = np.array([5, 6, 7, 2, 3, 9])
    np.testing.assert_array_equal(read_rows(frames, rows), recording.stimuli["movie"].frames[rows])


def test_a_window_must_be_longer_than_the_lag(make_recording):
    with pytest.raises(ValueError, match="window_length 5 must exceed the model's lag of 5 bins"):
        make_windows(make_recording(), lag=5, window_length=5)


def test_statistics_come_from_training_bins_alone():
    recording = fabricate_recording(n_trials=4)
    labels = label_bins(recording, SPLIT, 0, 3)
    reference = compute_statistics([recording], {"session_0": labels}, response_scale="std")
    train = labels == TRAIN
    shown = recording.stimuli["movie"].frames[recording.frame[train]].astype(np.float64)
    assert reference.stim_mean == pytest.approx(shown.mean())
    assert reference.stim_std == pytest.approx(shown.std())
    std = recording.responses[train].astype(np.float64).std(axis=0)
    np.testing.assert_allclose(reference.response_scale["session_0"], np.maximum(std, 0.01 * std.mean()), rtol=1e-5)
    responses = recording.responses.copy()
    responses[~train] += 100
    changed = compute_statistics([replace(recording, responses=responses)], {"session_0": labels}, response_scale="std")
    for name in ("response_scale", "mean_activity"):
        torch.testing.assert_close(getattr(changed, name), getattr(reference, name), rtol=0, atol=0)


def test_sessions_share_one_copy_of_a_stimulus_on_a_device(make_recording):
    recording = make_recording()
    other = replace(recording, session="other")
    labels = label_bins(recording, SPLIT, 0, 5)
    statistics = compute_statistics([recording, other], {"session_0": labels, "other": labels})
    options = {"lag": 5, "window_length": 16, "batch_size": 4, "statistics": statistics}
    for device in ("cpu", "meta"):
        windows = [SessionWindows(r, labels, TRAIN, device=device, **options) for r in (recording, other)]
        one, same = (w._on_device["movie"].tensor for w in windows)
        assert one is same
        assert one.dtype == torch.uint8
    on_cpu = SessionWindows(recording, labels, TRAIN, **options)._on_device["movie"].tensor
    assert np.shares_memory(on_cpu.numpy(), recording.stimuli["movie"].frames)


def test_a_memory_mapped_stimulus_is_read_frame_by_frame(make_recording, tmp_path, recwarn):
    recording = make_recording()
    np.save(tmp_path / "movie.npy", recording.stimuli["movie"].frames)
    mapped = replace(recording.stimuli["movie"], frames=np.load(tmp_path / "movie.npy", mmap_mode="r"))
    lazy = replace(recording, stimuli=recording.stimuli | {"movie": mapped})
    pairs = [make_windows(r)[0].in_order() for r in (recording, lazy)]
    for one, other in zip(*pairs, strict=True):
        assert torch.equal(one.inputs, other.inputs)
    assert not recwarn.list
