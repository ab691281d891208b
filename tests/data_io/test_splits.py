"""Splits: no frame reaches both sides, gaps are as wide as the lag, test tiers are never touched."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.splits import (
    GAP,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    SplitError,
    fold_clips,
    label_bins,
    published_clips,
    published_trials,
)
from tests.conftest import fabricate_recording

FOLDS = {"method": "folds", "n_folds": 3, "clip_length": 20, "seed": 0}


def frames_seen(recording, bins, lag):
    """Every (stimulus, frame) that a model sees when it predicts these bins."""
    seen = set()
    names = recording.bin_column("stimulus")
    for bin_index in bins:
        window = np.arange(bin_index - lag, bin_index + 1)
        assert (recording.trial[window] == recording.trial[bin_index]).all()
        seen |= set(zip(names[window], recording.frame[window].tolist(), strict=True))
    return seen


@settings(deadline=None, max_examples=40)
@given(
    lag=st.integers(0, 12),
    clip_length=st.integers(15, 40),
    n_folds=st.integers(2, 4),
    trial_length=st.integers(30, 90),
    seed=st.integers(0, 5),
    shuffled_again=st.booleans(),
)
def test_no_frame_is_seen_on_both_sides(lag, clip_length, n_folds, trial_length, seed, shuffled_again):
    recording = fabricate_recording(trial_length=trial_length, n_trials=4, n_neurons=1)
    if shuffled_again:  # the same frames again in another order: clips are held out by content, not by place
        order = np.random.default_rng(seed).permutation(4)
        train = recording.frame[: 4 * trial_length].reshape(4, trial_length)
        recording = replace(
            recording, frame=np.concatenate([train[order].ravel(), recording.frame[4 * trial_length :]])
        )
    split = {"method": "folds", "n_folds": n_folds, "clip_length": clip_length, "seed": seed}
    if 4 * trial_length // clip_length < n_folds:
        return
    for fold in range(n_folds):
        labels = label_bins(recording, split, fold, lag)
        train, validation = np.flatnonzero(labels == TRAIN), np.flatnonzero(labels == VALIDATION)
        assert not frames_seen(recording, train, lag) & frames_seen(recording, validation, lag)
        tier = recording.bin_column("tier")
        assert (labels[tier == "test"] != TRAIN).all()
        assert (labels[tier == "test"] != VALIDATION).all()
        assert (labels[tier == "train"] != TEST).all()
        if len(train) and len(validation):
            nearest = np.abs(train[:, None] - validation).min()
            same_trial = recording.trial[train][:, None] == recording.trial[validation]
            distance = np.abs(train[:, None] - validation)[same_trial]
            assert nearest >= 1
            assert distance.size == 0 or distance.min() > lag


def test_every_clip_is_held_out_in_exactly_one_fold():
    held_out = np.stack([fold_clips(17, FOLDS, fold, "ab12") for fold in range(3)])
    assert (held_out.sum(axis=0) == 1).all()
    assert set(held_out.sum(axis=1)) == {5, 6}


@settings(deadline=None)
@given(n_clips=st.integers(1, 40), n_folds=st.integers(2, 8), seed=st.integers(0, 5), content=st.integers(0, 2**32 - 1))
def test_folds_of_a_stimulus_are_equally_large(n_clips, n_folds, seed, content):
    split, digest = FOLDS | {"n_folds": n_folds, "seed": seed}, f"{content:08x}"
    held_out = np.stack([fold_clips(n_clips, split, fold, digest) for fold in range(n_folds)])
    assert (held_out.sum(axis=0) == 1).all()
    assert np.ptp(held_out.sum(axis=1)) <= 1
    if n_clips >= n_folds:  # every stimulus that can be a session's only one: every n-th clip from the first one on
        order = np.random.default_rng([seed, content]).permutation(n_clips)
        for fold in range(n_folds):
            assert set(np.flatnonzero(held_out[fold])) == set(order[fold::n_folds])


def short_stimuli(n_stimuli, length=20, seed=0):
    """A recording of so many training stimuli of one clip each."""
    recording = fabricate_recording(n_trials=n_stimuli, trial_length=length, n_neurons=1, seed=seed)
    movie, n_frames = recording.stimuli["movie"], n_stimuli * length
    stimuli = {
        f"image {i}": replace(movie, frames=movie.frames[i * length : (i + 1) * length]) for i in range(n_stimuli)
    }
    frame = recording.frame.copy()
    frame[:n_frames] %= length
    trials = recording.trials.assign(stimulus=[*stimuli, *["test"] * 4])
    return replace(recording, stimuli=stimuli | {"test": recording.stimuli["test"]}, frame=frame, trials=trials)


def clips_per_fold(recording, split):
    """Held-out bins of every fold, in clips of 20."""
    labels = [label_bins(recording, split, fold, lag=0) for fold in range(split["n_folds"])]
    return [int((label == VALIDATION).sum()) // 20 for label in labels]


def test_short_stimuli_reach_all_folds():
    counts = clips_per_fold(short_stimuli(100), FOLDS | {"n_folds": 5})
    assert sum(counts) == 100
    assert 10 <= min(counts) <= max(counts) <= 30


def test_short_stimuli_are_held_out_alike_whatever_else_was_shown():
    many = short_stimuli(20)
    few = replace(many, trials=many.trials.assign(stimulus=[f"image {i % 12}" for i in range(20)] + ["test"] * 4))
    for fold in range(3):
        for name in ("image 0", "image 4", "image 6"):
            assert held_out_frames(many, name, fold) == held_out_frames(few, name, fold)


def test_a_fold_without_a_clip_is_named():
    recording = short_stimuli(6)
    for seed in range(20):
        drawn = [fold_clips(1, FOLDS | {"n_folds": 6, "seed": seed}, 0, s.digest()) for s in recording.stimuli.values()]
        if not np.any(drawn):
            break
    with pytest.raises(SplitError, match=r"fold 0 of 6 holds out none of the 6 training clips.*choose another seed"):
        label_bins(recording, FOLDS | {"n_folds": 6, "seed": seed}, 0, lag=0)


def held_out_frames(recording, name, fold):
    labels = label_bins(recording, FOLDS, fold, lag=0)
    shown = recording.bin_column("stimulus") == name
    return {label: set(recording.frame[shown & (labels == label)].tolist()) for label in (TRAIN, VALIDATION)}


def test_sessions_that_share_a_movie_hold_out_the_same_clips(make_recording):
    one = make_recording("one")
    extra = make_recording("other", seed=5).stimuli["movie"]
    trials = one.trials.assign(stimulus=["again", "noise", "again", *["test"] * 4])
    stimuli = {"again": one.stimuli["movie"], "noise": extra, "test": one.stimuli["test"]}
    other = replace(one, session="other", stimuli=stimuli, trials=trials)
    for fold in range(3):
        assert not held_out_frames(one, "movie", fold)[VALIDATION] & held_out_frames(other, "again", fold)[TRAIN]
        assert not held_out_frames(one, "movie", fold)[TRAIN] & held_out_frames(other, "again", fold)[VALIDATION]


def test_labels_around_a_validation_clip(make_recording):
    recording = make_recording(n_trials=1, trial_length=60, n_repeats=1, test_length=10)
    labels = label_bins(recording, {"method": "clip_list", "clips": [1], "clip_length": 20}, 0, lag=5)
    expected = [UNUSED] * 5 + [TRAIN] * 15 + [GAP] * 5 + [VALIDATION] * 15 + [GAP] * 5 + [TRAIN] * 15
    assert labels[:60].tolist() == expected
    assert labels[60:].tolist() == [UNUSED] * 5 + [TEST] * 5


def test_masked_and_withheld_bins_are_unused(make_recording):
    recording = make_recording()
    valid = recording.valid.copy()
    valid[30:40] = False
    trials = recording.trials.assign(withheld=[False] * 3 + [True] * 4)
    labels = label_bins(replace(recording, valid=valid, trials=trials), FOLDS, 0, lag=0)
    assert (labels[30:40] == UNUSED).all()
    assert (labels[180:] == UNUSED).all()
    assert (labels[:30] != UNUSED).all()


def test_published_clip_numbers():
    split = {"method": "random_clips", "n_clips": 3, "clip_length": 90, "seed": 42}
    assert np.flatnonzero(published_clips(10, split)).tolist() == [1, 5, 8]
    published = [1760, 3016, 1770, 3703, 2099, 2641, 1417, 755, 109, 3476, 511, 1425, 3156, 2663, 670, 1456, 2506, 1849]
    published += [1231, 3973]
    assert np.flatnonzero(published_clips(3997, split | {"n_clips": 20})).tolist() == sorted(published)


def test_published_tiers_are_kept(make_recording):
    recording = make_recording()
    trials = recording.trials.assign(tier=["train", "validation", "train"] + ["test"] * 4)
    labels = label_bins(replace(recording, trials=trials), {"method": "published"}, 0, lag=0)
    assert (labels[:60] == TRAIN).all()
    assert (labels[60:120] == VALIDATION).all()
    assert (labels[120:180] == TRAIN).all()


@pytest.mark.parametrize(
    ("split", "fold", "message"),
    [
        (FOLDS, 3, "fold 3 does not exist: the split 'folds' has 3 folds, 0 to 2"),
        (FOLDS, -1, "fold -1 does not exist"),
        ({"method": "random_clips", "n_clips": 2, "clip_length": 20, "seed": 42}, 1, "has 1 folds, 0 to 0"),
        ({"method": "fold"}, 0, "split method 'fold' is unknown"),
        (FOLDS | {"clip_length": 100}, 0, "3 folds need at least 3 training clips, found 1"),
        ({"method": "clip_list", "clips": [9], "clip_length": 20}, 0, r"clips \[9\] lie outside the stimulus' 9 clips"),
        ({"method": "random_clips", "n_clips": 9, "clip_length": 20, "seed": 42}, 0, "9 validation clips were asked"),
    ],
)
def test_impossible_splits_are_named(make_recording, split, fold, message):
    with pytest.raises(SplitError, match=message):
        label_bins(make_recording(), split, fold, lag=2)


TRIALS = {"method": "published_trials", "train_fraction": 0.8, "seed": 1000, "together": [[0, 9], [10, 19]]}


def test_published_trial_numbers():
    def published(n_trials):
        np.random.seed(1000)  # noqa: NPY002 (the published split draws from the global generator)
        while True:
            train, validation = np.split(np.random.permutation(n_trials), [int(n_trials * 0.8)])  # noqa: NPY002
            if all(len({pair[0] in train, pair[1] in train}) == 1 for pair in [(0, 9), (10, 19)] if pair[1] < n_trials):
                return sorted(validation.tolist())

    for n_trials in (10, 11, 20, 21):
        held_out = np.flatnonzero(published_trials(n_trials, TRIALS)).tolist()
        assert held_out == published(n_trials)
        assert (0 in held_out) == (9 in held_out)
        assert n_trials < 20 or (10 in held_out) == (19 in held_out)
    # without the condition the first draw for 20 trials would do; a seed whose first draw does not is drawn again
    free = TRIALS | {"together": []}
    redrawn = [
        seed
        for seed in range(20)
        if (
            published_trials(20, free | {"seed": seed})[[0, 10]] != published_trials(20, free | {"seed": seed})[[9, 19]]
        ).any()
    ]
    assert redrawn
    for seed in redrawn:
        held_out = published_trials(20, TRIALS | {"seed": seed})
        assert (held_out[[0, 10]] == held_out[[9, 19]]).all()
        assert held_out.sum() == 4


def test_whole_trials_are_held_out_with_every_frame_they_show(make_recording):
    recording = make_recording(n_trials=5, trial_length=20)
    frame = recording.frame.copy()
    held_out = np.flatnonzero(published_trials(5, TRIALS))
    other = next(row for row in range(5) if row not in held_out)
    # the last 8 bins of a training trial show frames of the held-out one
    frame[20 * other + 12 : 20 * other + 20] = frame[20 * held_out[0] : 20 * held_out[0] + 8]
    labels = label_bins(replace(recording, frame=frame), TRIALS, 0, lag=3)
    for row in range(5):
        expected = [UNUSED] * 3 + [VALIDATION if row in held_out else TRAIN] * 17
        if row == other:
            expected[12:] = [GAP] * 3 + [VALIDATION] * 5
        assert labels[20 * row : 20 * row + 20].tolist() == expected
    assert set(labels[100:].tolist()) == {UNUSED, TEST}


def test_impossible_splits_of_trials_are_refused(make_recording):
    with pytest.raises(SplitError, match=r"train_fraction 0.8 of 1 training trials is 0 trials"):
        label_bins(make_recording(n_trials=1), TRIALS, 0, lag=0)
    with pytest.raises(SplitError, match=r"no split of 2 trials with 1 for training keeps \[\[0, 1\]\] together"):
        published_trials(2, TRIALS | {"together": [[0, 1]]})
    with pytest.raises(SplitError, match="fold 1 does not exist"):
        label_bins(make_recording(), TRIALS, 1, lag=0)
