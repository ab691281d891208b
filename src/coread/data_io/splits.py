"""Splits: pure functions from (recording, split config, fold) to one label per bin.

A fold holds out clips of the training stimuli. Clips are stretches of stimulus frames, not of recorded time, so that a
clip shown twice, or in another order to another session, is held out everywhere (folds are drawn from the content of
each stimulus, whatever else a session was shown). A bin is a training bin only if none
of the frames its model sees (its own and the `lag` before it) belongs to a held-out clip, and a validation bin only if
all of them do: no frame ever reaches both sides, and the bins between become the gap.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int8, Shaped

from coread.recording import BLANK, Recording

LABELS = ("train", "validation", "gap", "test", "unused")
TRAIN, VALIDATION, GAP, TEST, UNUSED = range(len(LABELS))
METHODS = ("folds", "clip_list", "random_clips", "published", "published_trials", "permuted_tiers")
MAX_DRAWS = 10_000  # of a split of trials before its conditions count as impossible


class SplitError(ValueError):
    """A split cannot be made as configured."""


def label_bins(recording: Recording, split: Mapping[str, Any], fold: int, lag: int) -> Int8[np.ndarray, "bin"]:
    """Return the label code (index into LABELS) of every bin for one fold and a model that looks `lag` bins back.

    `split` holds `method` and its keys:
    folds: `n_folds`, `clip_length` (frames), `seed`; random_clips: `n_clips`, `clip_length`, `seed` (the published
    `RandomState(seed).choice`); clip_list: `clips`, `clip_length`; published: the tiers of the recording as they are;
    published_trials: `train_fraction`, `seed`, `together` (see `published_trials`); permuted_tiers: `n_folds`, `seed`
    (see `permuted_tiers`).
    Raises SplitError for an unknown method, a fold that does not exist, or too few clips or trials.
    """
    check_fold(split, fold)
    tier = recording.bin_column("tier").astype(str)
    shown_on_both_sides = np.zeros(recording.n_bins, bool)
    if split["method"] == "published":
        held_out = tier == "validation"
        neutral = np.zeros(recording.n_bins, bool)
    elif split["method"] == "permuted_tiers":
        withheld = recording.trials["withheld"].to_numpy().astype(bool)
        tiers = permuted_tiers(np.where(withheld, "", recording.trials["tier"].to_numpy().astype(str)), split, fold)
        held_out = (tiers == "validation")[recording.trial]
        shown_on_both_sides = _shows_frames_of(recording, tiers == "validation") & ~held_out
        neutral = np.zeros(recording.n_bins, bool)
    else:
        by_trial = split["method"] == "published_trials"
        held_out = _held_out_trials(recording, split) if by_trial else _held_out_bins(recording, split, fold)
        neutral = recording.frame == BLANK
    usable = (recording.bin_in_trial() >= lag) & recording.valid & ~recording.bin_column("withheld").astype(bool)
    n_seen = _windowed_sum(recording, ~neutral, lag)
    n_held_out = _windowed_sum(recording, held_out & ~neutral, lag)
    labels = np.full(recording.n_bins, GAP, np.int8)
    labels[n_held_out == 0] = TRAIN
    labels[(n_held_out == n_seen) & (n_seen > 0)] = VALIDATION
    labels[(labels == TRAIN) & (_windowed_sum(recording, shown_on_both_sides, lag) > 0)] = GAP
    labels[np.isin(tier, ("test", "final_test"))] = TEST
    labels[~usable] = UNUSED
    return labels


def check_fold(split: Mapping[str, Any], fold: int) -> None:
    """Raise SplitError if the method is unknown or the fold does not exist."""
    method = split.get("method")
    if method not in METHODS:
        raise SplitError(f"split method {method!r} is unknown, expected one of {list(METHODS)}")
    n_folds = int(split["n_folds"]) if method in ("folds", "permuted_tiers") else 1
    if not 0 <= fold < n_folds:
        raise SplitError(f"fold {fold} does not exist: the split {method!r} has {n_folds} folds, 0 to {n_folds - 1}")


def fold_clips(n_clips: int, split: Mapping[str, Any], fold: int, content: str = "") -> Bool[np.ndarray, "clip"]:
    """Return which of a stimulus' clips a fold holds out: every n-th of an order drawn from seed and content.

    The order depends on what is shown and on nothing else, so that sessions which share a movie, whatever else they
    were shown and under which name, hold out the same clips of it. A stimulus with fewer clips than folds starts at a
    fold that is drawn too.
    """
    digits = int(content[:8], 16) if content else 0
    rng = np.random.default_rng([int(split["seed"]), digits])
    order, n_folds = rng.permutation(n_clips), int(split["n_folds"])
    # all short stimuli would lie in the first folds; the others reach every fold from the first one on
    start = int(rng.integers(n_folds)) if n_clips < n_folds else 0
    held_out = np.zeros(n_clips, bool)
    held_out[order[(fold - start) % n_folds :: n_folds]] = True
    return held_out


def published_clips(n_clips: int, split: Mapping[str, Any]) -> Bool[np.ndarray, "clip"]:
    """Return which clips a published split holds out, counted through all training stimuli of a session.

    Raises SplitError if there are too few.
    """
    held_out = np.zeros(n_clips, bool)
    held_out[published_clip_order(n_clips, split)] = True
    return held_out


def published_clip_order(n_clips: int, split: Mapping[str, Any]) -> Int[np.ndarray, " held_out"]:
    """Return the clips that a published split holds out in the order of the draw or list; raises SplitError."""
    if split["method"] == "random_clips":
        # NumPy's legacy generator on purpose: it draws the published clip numbers
        random_state = np.random.RandomState(int(split["seed"]))
        if int(split["n_clips"]) >= n_clips:
            raise SplitError(f"{split['n_clips']} validation clips were asked for, the stimulus has {n_clips} clips")
        return random_state.choice(n_clips, int(split["n_clips"]), replace=False)
    clips = np.asarray(split["clips"], int)
    if clips.min() < 0 or clips.max() >= n_clips:
        raise SplitError(f"validation clips {clips.tolist()} lie outside the stimulus' {n_clips} clips")
    return clips


def published_trials(n_trials: int, split: Mapping[str, Any]) -> Bool[np.ndarray, "trial"]:
    """Return which training trials a published split holds out: all but the first `train_fraction` of a permutation.

    The permutation of `RandomState(seed)` is drawn again while trials that belong `together` (they share frames) are
    separated; pairs with a trial that does not exist are not asked for. Raises SplitError if that cannot be had.
    """
    # NumPy's legacy generator on purpose: it draws the published trial numbers
    random_state = np.random.RandomState(int(split["seed"]))
    n_train = int(n_trials * float(split["train_fraction"]))
    if not 0 < n_train < n_trials:
        raise SplitError(f"train_fraction {split['train_fraction']} of {n_trials} training trials is {n_train} trials")
    pairs = np.array([pair for pair in split["together"] if max(pair) < n_trials], int).reshape(-1, 2)
    for _ in range(MAX_DRAWS):
        held_out = np.zeros(n_trials, bool)
        held_out[random_state.permutation(n_trials)[n_train:]] = True
        if (held_out[pairs[:, 0]] == held_out[pairs[:, 1]]).all():
            return held_out
    raise SplitError(f"no split of {n_trials} trials with {n_train} for training keeps {pairs.tolist()} together")


def permuted_tiers(
    tiers: Shaped[np.ndarray, "trial"], split: Mapping[str, Any], fold: int
) -> Shaped[np.ndarray, "trial"]:
    """Return the tiers of all trials with the labels of training and validation trials permuted among them.

    Fold i takes the i-th permutation drawn from `RandomState(seed)`, which every session starts anew; test tiers and
    the numbers of trials stay as they are (the ensemble of the Model-4 entry to SENSORIUM 2022).
    """
    # NumPy's legacy generator on purpose: it draws the published permutations
    random_state = np.random.RandomState(int(split["seed"]))
    permuted, rows = tiers.copy(), np.isin(tiers, ("train", "validation"))
    for _ in range(fold + 1):
        permuted[rows] = random_state.permutation(tiers[rows])
    return permuted


def _held_out_trials(recording: Recording, split: Mapping[str, Any]) -> Bool[np.ndarray, "bin"]:
    """Mark the bins that show a frame of a held-out trial, in whichever training trial they are."""
    tier = recording.trials["tier"].to_numpy().astype(str)
    rows = np.flatnonzero(np.isin(tier, ("train", "validation")))
    held_out_trial = np.zeros(len(tier), bool)
    held_out_trial[rows] = published_trials(len(rows), split)
    return _shows_frames_of(recording, held_out_trial)


def _shows_frames_of(recording: Recording, trials: Bool[np.ndarray, "trial"]) -> Bool[np.ndarray, "bin"]:
    """Mark the bins of training and validation trials that show a frame of one of the given trials."""
    in_training = np.isin(recording.bin_column("tier").astype(str), ("train", "validation"))
    marked = np.zeros(recording.n_bins, bool)
    bin_stimulus = recording.bin_column("stimulus").astype(str)
    for name in sorted(set(bin_stimulus[in_training])):
        here = in_training & (bin_stimulus == name) & (recording.frame != BLANK)
        shown = np.zeros(recording.stimuli[name].frames.shape[0], bool)
        shown[recording.frame[here & trials[recording.trial]]] = True
        marked[here] = shown[recording.frame[here]]
    return marked


def _held_out_bins(recording: Recording, split: Mapping[str, Any], fold: int) -> Bool[np.ndarray, "bin"]:
    """Mark the bins that show a held-out clip."""
    shown_in_training = recording.trials["tier"].isin(["train", "validation"])
    names = sorted(set(recording.trials.loc[shown_in_training, "stimulus"]))
    clip_length = int(split["clip_length"])
    # whole clips only: a shorter rest at the end of a stimulus joins its last clip
    n_clips = [max(1, recording.stimuli[name].frames.shape[0] // clip_length) for name in names]
    bin_stimulus = recording.bin_column("stimulus").astype(str)
    marked = np.zeros(recording.n_bins, bool)
    for name, count, held_out in zip(
        names, n_clips, _clips_by_stimulus(recording, split, fold, names, n_clips), strict=True
    ):
        shown = (bin_stimulus == name) & (recording.frame != BLANK)
        marked[shown] = held_out[np.minimum(recording.frame[shown] // clip_length, count - 1)]
    return marked


def _clips_by_stimulus(
    recording: Recording, split: Mapping[str, Any], fold: int, names: list[str], n_clips: list[int]
) -> list[Bool[np.ndarray, "clip"]]:
    """Return the held-out clips of every training stimulus, in the order of `names`."""
    if split["method"] != "folds":
        return np.split(published_clips(sum(n_clips), split), np.cumsum(n_clips)[:-1])
    n_folds = int(split["n_folds"])
    if sum(n_clips) < max(2, n_folds):
        raise SplitError(f"{n_folds} folds need at least {max(2, n_folds)} training clips, found {sum(n_clips)}")
    held_out = [
        fold_clips(count, split, fold, recording.stimuli[name].digest())
        for name, count in zip(names, n_clips, strict=True)
    ]
    if not any(clips.any() for clips in held_out):
        raise SplitError(
            f"fold {fold} of {n_folds} holds out none of the {sum(n_clips)} training clips, because the fold of a "
            f"stimulus with fewer than {n_folds} clips is drawn: choose another seed of the split, or fewer folds"
        )
    return held_out


def _windowed_sum(recording: Recording, marked: Bool[np.ndarray, "bin"], lag: int) -> np.ndarray:
    """Count the marked bins among each bin and its `lag` predecessors in the same trial."""
    total = np.concatenate([[0], np.cumsum(marked)])
    bins = np.arange(recording.n_bins)
    first = np.maximum(bins - lag, bins - recording.bin_in_trial())
    return total[bins + 1] - total[first]
