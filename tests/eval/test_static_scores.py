"""Scores of single images: by tier, with predictions that differ between repeats, and out of fold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.static_images import EVALUATION, N_REPEATS, N_TEST, make_predictions, make_recording

from coread.data_io.splits import TEST, VALIDATION
from coread.eval.ensembles import out_of_fold, predict_rows
from coread.eval.metrics import bootstrap_repeats, correlation_to_average, feve, single_trial_correlation
from coread.eval.predictions import (
    MemberPredictions,
    PredictionError,
    SessionPrediction,
    read_predictions,
    write_predictions,
)
from coread.eval.repeats import ABSENT
from coread.eval.scores import ScoreError, score_experiment
from coread.eval.settings import EvaluationError
from coread.recording import Recording


@pytest.fixture(scope="module")
def example() -> tuple[list[Recording], list[MemberPredictions], pd.DataFrame]:
    recordings = [make_recording("a", 0), make_recording("b", 1, final_test=True)]
    members = make_predictions(recordings)
    return recordings, members, score_experiment(recordings, members, EVALUATION)


def pick(scores: pd.DataFrame, **wanted: str) -> np.ndarray:
    for column, value in wanted.items():
        scores = scores[scores[column] == value]
    assert scores["neuron"].is_monotonic_increasing
    return scores["value"].to_numpy()


def side_by_side(recording: Recording, values: np.ndarray, tier: str) -> np.ndarray:
    """Return (image, repeat, neuron) of a tier, by image and repeat number."""
    trials = recording.trials[recording.trials["tier"] == tier].sort_values(["image_id", "repeat"])
    return values[trials.index].reshape(N_TEST, N_REPEATS, -1)


@pytest.mark.parametrize(("stimulus", "tier"), [("images", "test"), ("images (final_test)", "final_test")])
def test_each_tier_is_scored_by_itself_with_the_prediction_of_every_trial(
    example: tuple, stimulus: str, tier: str
) -> None:
    recordings, members, scores = example
    recording = recordings[1]
    responses = side_by_side(recording, recording.responses.astype(float), tier)
    each = [side_by_side(recording, member.sessions["b"].prediction.astype(float), tier) for member in members]
    assert np.ptp(each[0], axis=1).max() > 0.1, "predictions differ between repeats"
    place = {"session": "b", "stimulus": stimulus, "tier": tier}
    for name, prediction in {"ensemble": np.mean(each, axis=0), "fold1_seed101": each[1]}.items():
        trials = prediction.reshape(-1, prediction.shape[2])
        expected = [
            np.corrcoef(trials[:, i], responses.reshape(trials.shape)[:, i])[0, 1] for i in range(len(trials.T))
        ]
        found = pick(scores, **place, predictor=name, metric="single_trial_correlation")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        averages = prediction.mean(axis=1), responses.mean(axis=1)
        expected = [np.corrcoef(*(average[:, i] for average in averages))[0, 1] for i in range(len(trials.T))]
        found = pick(scores, **place, predictor=name, metric="correlation_to_average")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        noise = responses.var(axis=1, ddof=1).mean(axis=0)
        total = responses.reshape(trials.shape).var(axis=0, ddof=1)
        expected = 1 - (np.square(responses - prediction).mean(axis=(0, 1)) - noise) / (total - noise)
        explainable = total > noise
        found = pick(scores, **place, predictor=name, metric="feve")
        np.testing.assert_allclose(found[explainable], expected[explainable], rtol=1e-4)
    rows = scores[(scores["session"] == "b") & (scores["tier"] == tier)]
    assert set(rows["n_bins"]) == {N_TEST}
    assert set(rows["n_repeats"]) == {N_REPEATS}
    assert set(rows[rows["predictor"] == "ensemble"]["n_members"]) == {3.0}


def test_only_the_chosen_metrics_leave_neurons_out(example: tuple) -> None:
    recordings, members, _ = example
    scores = score_experiment(recordings, members, EVALUATION | {"explainable_variance_threshold": 0.99})
    included = scores.groupby("metric")["included"].any()
    assert not included["feve"]
    assert included["single_trial_correlation"]
    everything = score_experiment(
        recordings, members, EVALUATION | {"explainable_variance_threshold": 0.99, "thresholded_metrics": "all"}
    )
    assert not everything["included"].any()


def test_a_member_that_memorised_its_training_trials_changes_no_validation_score_of_the_ensemble(
    example: tuple,
) -> None:
    recordings, members, scores = example
    contaminated = []
    for member in members:
        sessions = {}
        for recording in recordings:
            prediction, label = member.sessions[recording.session]
            memorised = np.isin(label, (VALIDATION, TEST))[:, None]
            sessions[recording.session] = SessionPrediction(
                np.where(memorised, prediction, recording.responses).astype(np.float32), label
            )
        contaminated.append(replace(member, sessions=sessions))
    again = score_experiment(recordings, contaminated, EVALUATION)
    pd.testing.assert_frame_equal(again, scores)
    # the plain mean over members, as published, would have been fooled
    recording = recordings[0]
    labels = np.stack([member.sessions["a"].label for member in contaminated])
    rows = np.flatnonzero((labels == VALIDATION).any(axis=0))
    plain = np.mean([member.sessions["a"].prediction[rows] for member in contaminated], axis=0)
    fooled = single_trial_correlation(recording.responses[rows][:, None], plain)
    honest = pick(scores, session="a", stimulus="validation", predictor="ensemble", metric="single_trial_correlation")
    assert fooled.mean() > honest.mean() + 0.1


def test_validation_says_how_many_members_predicted_a_trial(example: tuple) -> None:
    _, members, scores = example
    labels = np.stack([member.sessions["a"].label for member in members])
    held_out = labels == VALIDATION
    rows = np.flatnonzero(held_out.any(axis=0))
    prediction, n_members = out_of_fold([member.sessions["a"] for member in members], rows)
    np.testing.assert_array_equal(n_members, held_out[:, rows].sum(axis=0))
    assert {1, 2} <= set(n_members.tolist()), "members share some validation trials"
    own = np.where(held_out[..., None], [member.sessions["a"].prediction for member in members], np.nan)
    np.testing.assert_allclose(prediction, np.nanmean(own[:, rows], axis=0), rtol=1e-5)
    told = scores[(scores["session"] == "a") & (scores["tier"] == "validation")].groupby("predictor")["n_members"]
    assert told.first()["ensemble"] == pytest.approx(n_members.mean())
    assert told.first()["fold0_seed100"] == 1
    alone = out_of_fold([members[0].sessions["a"]], np.flatnonzero(~held_out[0])[:1])
    assert alone.n_members[0] == 0
    assert np.isnan(alone.prediction).all(), "a trial that every member was trained on has no honest prediction"


def test_scores_tell_which_bins_they_are_of(example: tuple) -> None:
    _, members, scores = example
    first = scores[(scores["session"] == "a") & (scores["neuron"] == 0) & (scores["metric"] == "poisson_loss")]
    digests = first.set_index(["tier", "predictor"])["bins_crc32"]
    n_bins = first.set_index(["tier", "predictor"])["n_bins"]
    assert len(set(digests["test"])) == 1
    names = [member.name for member in members]
    assert len(set(n_bins["validation"][names])) == 1, "the number does not tell them apart"
    assert len(set(digests["validation"])) == len(members) + 1
    assert digests.str.fullmatch("[0-9a-f]{8}").all()


def test_withheld_trials_enter_no_score(example: tuple) -> None:
    recordings, _, _ = example
    recording = recordings[1]
    withheld = (recording.trials["tier"] == "final_test").to_numpy()
    hidden = replace(
        recording,
        trials=recording.trials.assign(withheld=withheld),
        valid=~withheld,
        responses=np.where(withheld[:, None], np.float32(np.nan), recording.responses),
    )
    scores = score_experiment([hidden], make_predictions([hidden]), EVALUATION)
    assert set(scores["tier"]) == {"test", "validation"}
    assert scores["value"].notna().all()


def test_rows_that_all_repeats_share_have_one_prediction() -> None:
    table = np.array([[0, 1, ABSENT], [2, ABSENT, 3]])
    shared = SessionPrediction(np.array([[1.0], [1.0], [5.0], [5.0]], np.float32), np.full(4, TEST, np.int8))
    apart = SessionPrediction(np.array([[1.0], [2.0], [5.0], [7.0]], np.float32), np.full(4, TEST, np.int8))
    assert predict_rows({"m": shared}, table)["ensemble"].tolist() == [[1.0], [5.0]]
    both = predict_rows({"m": shared, "n": apart}, table)
    np.testing.assert_array_equal(both["n"][..., 0], [[1, 2, np.nan], [5, np.nan, 7]])
    np.testing.assert_array_equal(both["ensemble"][..., 0], [[1, 1.5, np.nan], [5, np.nan, 6]])


def test_intervals_of_predictions_per_repeat() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(60, 1, 3))
    context = rng.normal(size=(60, 8, 3))
    responses = signal + context + rng.normal(size=(60, 8, 3))
    prediction = signal + context
    # given for every repeat, the same prediction for all is what it is when given once
    once = bootstrap_repeats(responses, signal[:, 0], 30, np.random.default_rng(1))
    often = bootstrap_repeats(responses, np.repeat(signal, 8, axis=1), 30, np.random.default_rng(1))
    for name in once:
        np.testing.assert_allclose(once[name], often[name], rtol=1e-9)
    found = bootstrap_repeats(responses, prediction, 200, np.random.default_rng(1))
    scores = {
        "feve": feve(responses, prediction),
        "correlation_to_average": correlation_to_average(responses, prediction),
    }
    for name, value in scores.items():
        low, high = found[name]
        assert ((low < value) & (value < high)).all(), name
    assert (scores["feve"] > feve(responses, signal[:, 0])).all(), "what context explains counts"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"undefined": "zeros"}, "evaluation.undefined is 'zeros', expected exclude or zero"),
        ({"formulas": "kit"}, "evaluation.formulas is 'kit', expected exact or sensorium_2022"),
        ({"thresholded_metrics": ["fev"]}, "evaluation.thresholded_metrics names 'fev'"),
        ({"thresholded_metrics": "feve"}, "expected all or a list of metrics"),
    ],
)
def test_settings_without_meaning_are_refused(example: tuple, change: dict, message: str) -> None:
    recordings, members, _ = example
    with pytest.raises(EvaluationError, match=message):
        score_experiment(recordings, members, EVALUATION | change)


def test_stored_predictions_are_read_session_by_session_with_the_same_scores(example: tuple, tmp_path: Path) -> None:
    recordings, members, scores = example
    paths = [tmp_path / f"{member.name}.h5" for member in members]
    for member, path in zip(members, paths, strict=True):
        write_predictions(member, path)
    lazy = [read_predictions(path, lazy=True) for path in paths]
    assert list(lazy[0].sessions) == ["a", "b"]
    assert lazy[0].sessions["a"].prediction is not lazy[0].sessions["a"].prediction, "nothing is kept"
    pd.testing.assert_frame_equal(score_experiment(recordings, lazy, EVALUATION), scores)
    with pytest.raises(ScoreError, match="no predictions of session 'c'"):
        score_experiment([replace(recordings[0], session="c")], lazy, EVALUATION)
    paths[0].write_bytes(paths[0].read_bytes()[:3000])
    with pytest.raises(PredictionError, match=r"fold0_seed100\.h5: session 'a' is not readable"):
        score_experiment(recordings, lazy, EVALUATION)


def test_intervals_of_members_can_be_left_out(example: tuple) -> None:
    recordings, members, scores = example
    assert scores[scores["predictor"] == "fold0_seed100"]["ci_low"].notna().any()
    config = EVALUATION | {"bootstrap": EVALUATION["bootstrap"] | {"members": False}}
    found = score_experiment(recordings[:1], members, config)
    of_ensemble = found["predictor"].isin(["ensemble", "data"])
    assert found[~of_ensemble]["ci_low"].isna().all()
    expected = scores[(scores["session"] == "a") & scores["predictor"].isin(["ensemble", "data"])]
    pd.testing.assert_frame_equal(found[of_ensemble].reset_index(drop=True), expected.reset_index(drop=True))
