"""The published permutations of training and validation labels, one per fold."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coread.data_io.splits import GAP, TEST, TRAIN, UNUSED, VALIDATION, SplitError, label_bins, permuted_tiers
from tests.data_io.regressors.sessions import fabricate_session, labels_of

SPLIT = {"method": "permuted_tiers", "n_folds": 5, "seed": 35382}
CODES = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "final_test": TEST}


def test_published_permutations(reference_data: Path):
    with np.load(reference_data / "parity" / "ensemble_tiers.npz", allow_pickle=False) as case:
        split = SPLIT | {"seed": json.loads(str(case["kwargs"]))["seed"]}
        actual = np.stack([permuted_tiers(case["tiers"], split, fold) for fold in range(5)])
        np.testing.assert_array_equal(actual, case["ensemble_tiers"])


def test_labels_are_the_permuted_tiers():
    recording = fabricate_session(n_trials=120)
    tiers = recording.trials["tier"].to_numpy().astype(str)
    folds = [label_bins(recording, SPLIT, fold, 0) for fold in range(5)]
    for fold, labels in enumerate(folds):
        expected = np.array([CODES[tier] for tier in permuted_tiers(tiers, SPLIT, fold)])
        expected[recording.trials["withheld"]] = UNUSED
        np.testing.assert_array_equal(labels, expected)
        for code in (TRAIN, VALIDATION):
            assert (labels == code).sum() == (labels_of(recording) == code).sum()
    assert len({labels.tobytes() for labels in folds}) == 5


def test_an_image_shown_twice_is_never_on_both_sides():
    recording = fabricate_session(n_trials=120)
    labels = label_bins(recording, SPLIT, 0, 0)
    held_out, trained_on = np.flatnonzero(labels == VALIDATION)[0], np.flatnonzero(labels == TRAIN)[0]
    frame = recording.frame.copy()
    frame[trained_on] = frame[held_out]
    twice = label_bins(replace(recording, frame=frame), SPLIT, 0, 0)
    assert twice[trained_on] == GAP
    np.testing.assert_array_equal(np.delete(twice, trained_on), np.delete(labels, trained_on))


def test_trials_without_responses_take_no_part():
    recording = fabricate_session(n_trials=120)
    rows = np.flatnonzero(recording.trials["tier"] == "train")[:30]
    withheld = recording.trials["withheld"].to_numpy().copy()
    withheld[rows] = True
    labels = label_bins(replace(recording, trials=recording.trials.assign(withheld=withheld)), SPLIT, 1, 0)
    assert (labels[rows] == UNUSED).all()
    assert (labels == VALIDATION).sum() == (labels_of(recording) == VALIDATION).sum()


def test_there_are_as_many_folds_as_configured():
    with pytest.raises(SplitError, match="5 folds, 0 to 4"):
        label_bins(fabricate_session(), SPLIT, 5, 0)
