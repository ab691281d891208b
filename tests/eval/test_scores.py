from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.data_io.splits import GAP, TEST, TRAIN, UNUSED, VALIDATION
from coread.eval.metrics import correlation_to_average, feve, noise_ceiling, normalized_correlation
from coread.eval.predictions import MemberPredictions, SessionPrediction, read_predictions, write_predictions
from coread.eval.scores import COLUMNS, ScoreError, read_scores, score_experiment, write_scores
from coread.recording import Recording, Stimulus, read_recordings, write_recording

CONFIG = {"explainable_variance_threshold": 0.15, "bootstrap": {"n": 200, "level": 0.95, "seed": 0}}
N_NEURONS, N_REPEATS, LAG = 4, 6, 2
NOISE_NEURON, SILENT_NEURON = 2, 3


def make_recording() -> tuple[Recording, np.ndarray]:
    """Two training trials, then six interleaved repeats of two probes; neurons: two good, pure noise, silent."""
    rng = np.random.default_rng(0)
    lengths = {"movie": 200, "probe_a": 90, "probe_b": 60}
    names = ["movie", "movie"] + ["probe_a", "probe_b"] * N_REPEATS
    offsets = [0, 200] + [0] * (2 * N_REPEATS)
    frames = [np.arange(lengths[name]) + start for name, start in zip(names, offsets, strict=True)]
    trials = pd.DataFrame(
        {
            "stimulus": names,
            "tier": ["train"] * 2 + ["test"] * (2 * N_REPEATS),
            "repeat": [0, 0, *np.repeat(range(N_REPEATS), 2)],
            "time_order": range(len(names)),
            "withheld": False,
        }
    )
    trial = np.repeat(np.arange(len(names)), [len(frame) for frame in frames]).astype(np.int32)
    signal = {name: rng.gamma(2.0, 1.0, (400, N_NEURONS)) for name in lengths}
    rate = np.concatenate([signal[name][frame] for name, frame in zip(names, frames, strict=True)])
    rate[:, NOISE_NEURON] = 1.0
    rate[:, SILENT_NEURON] = 0.0
    recording = Recording(
        dataset="toy",
        session="a",
        stimuli={name: Stimulus(np.zeros((400, 1, 2, 2), np.uint8), 60.0) for name in lengths},
        trials=trials,
        trial=trial,
        frame=np.concatenate(frames).astype(np.int32),
        responses=rng.poisson(rate).astype(np.float32),
        valid=np.ones(len(trial), bool),
        rate_hz=60.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": ["u0", "u1", "u2", "u3"], "cell_type": ["on", "on", "off", "off"]}),
    )
    return recording, rate.astype(np.float32)


def make_label(recording: Recording, held_out: slice) -> np.ndarray:
    label = np.full(recording.n_bins, TRAIN, np.int8)
    label[held_out] = VALIDATION
    label[held_out.stop : held_out.stop + LAG] = GAP
    label[recording.bin_column("tier") == "test"] = TEST
    label[recording.bin_in_trial() < LAG] = UNUSED
    return label


def make_member(recording: Recording, prediction: np.ndarray, fold: int, seed: int = 0) -> MemberPredictions:
    label = make_label(recording, slice(50 + 100 * fold, 150 + 100 * fold))
    kept = np.where(np.isin(label, (VALIDATION, TEST))[:, None], prediction, np.nan).astype(np.float32)
    return MemberPredictions("exp", fold, seed, LAG, {"a": SessionPrediction(kept, label)})


@pytest.fixture(scope="module")
def example() -> tuple[Recording, list[MemberPredictions], pd.DataFrame]:
    recording, rate = make_recording()
    rng = np.random.default_rng(5)
    _, same_for_repeats = np.unique(recording.bin_column("stimulus"), return_inverse=True)
    jitter = [rng.standard_normal((3, 400, N_NEURONS)) for _ in range(2)]
    members = [
        make_member(recording, np.maximum(rate + noise[same_for_repeats, recording.frame], 0.01), fold)
        for fold, noise in enumerate(jitter)
    ]
    return recording, members, score_experiment([recording], members, CONFIG)


def pick(scores: pd.DataFrame, **wanted: str) -> np.ndarray:
    for column, value in wanted.items():
        scores = scores[scores[column] == value]
    assert scores["neuron"].tolist() == list(range(N_NEURONS))
    return scores["value"].to_numpy()


def side_by_side(recording: Recording, values: np.ndarray, stimulus: str) -> np.ndarray:
    trials = np.flatnonzero(recording.trials["stimulus"] == stimulus)
    return np.stack([values[recording.trial == trial][LAG:] for trial in trials], axis=1)


def test_scores_are_the_same_of_what_stays_on_disk(example: tuple, tmp_path: Path) -> None:
    recording, members, scores = example
    write_recording(recording, tmp_path / "a.h5")
    lazy = read_recordings([tmp_path / "a.h5"], load_frames=False, memory_budget_bytes=0)
    assert not isinstance(lazy[0].responses, np.ndarray)
    paths = [tmp_path / f"{member.name}.h5" for member in members]
    for member, path in zip(members, paths, strict=True):
        write_predictions(member, path)
    streamed = score_experiment(lazy, [read_predictions(path, lazy=True) for path in paths], CONFIG)
    pd.testing.assert_frame_equal(streamed, scores, check_exact=True)


@pytest.mark.parametrize("stimulus", ["probe_a", "probe_b"])
def test_test_scores_are_the_metrics_of_aligned_repeats_per_stimulus(example: tuple, stimulus: str) -> None:
    recording, members, scores = example
    responses = side_by_side(recording, recording.responses, stimulus)
    of_members = [side_by_side(recording, member.sessions["a"].prediction, stimulus)[:, 0] for member in members]
    predictions = {"fold0_seed0": of_members[0], "fold1_seed0": of_members[1], "ensemble": np.mean(of_members, axis=0)}
    for name, prediction in predictions.items():
        place = {"stimulus": stimulus, "predictor": name}
        expected = correlation_to_average(responses, prediction)
        np.testing.assert_allclose(pick(scores, **place, metric="correlation_to_average"), expected, rtol=1e-6)
        expected = normalized_correlation(responses, prediction)
        np.testing.assert_allclose(pick(scores, **place, metric="normalized_correlation"), expected, rtol=1e-6)
        np.testing.assert_allclose(pick(scores, **place, metric="fraction_of_ceiling"), expected, rtol=1e-6)
        np.testing.assert_allclose(pick(scores, **place, metric="feve"), feve(responses, prediction), rtol=1e-6)
    ceiling = pick(scores, stimulus=stimulus, predictor="data", metric="noise_ceiling")
    np.testing.assert_allclose(ceiling, noise_ceiling(responses), rtol=1e-6)
    rows = scores[scores["stimulus"] == stimulus]
    assert set(rows["n_bins"]) == {len(responses)}
    assert set(rows["n_repeats"]) == {N_REPEATS}


def test_the_ensemble_beats_its_members_here(example: tuple) -> None:
    _, _, scores = example
    place = {"stimulus": "probe_a", "metric": "correlation_to_average"}
    ensemble = pick(scores, **place, predictor="ensemble")
    for member in ("fold0_seed0", "fold1_seed0"):
        assert (ensemble[:2] > pick(scores, **place, predictor=member)[:2]).all()


def test_neurons_without_explainable_variance_stay_in_the_table_but_are_not_included(example: tuple) -> None:
    _, _, scores = example
    by_neuron = scores.groupby("neuron")["included"].agg(["all", "any"])
    assert by_neuron["all"].tolist() == [True, True, False, False]
    assert not by_neuron["any"][NOISE_NEURON]
    assert not by_neuron["any"][SILENT_NEURON]
    assert np.isnan(pick(scores, stimulus="probe_a", predictor="data", metric="explainable_variance")[SILENT_NEURON])


def test_the_threshold_decides(example: tuple) -> None:
    recording, members, _ = example
    scores = score_experiment([recording], members, CONFIG | {"explainable_variance_threshold": 0.99})
    assert not scores["included"].any()


def test_the_ensemble_is_validated_only_by_members_that_did_not_train_on_the_bin(example: tuple) -> None:
    recording, members, scores = example
    labels = [member.sessions["a"].label for member in members]
    own = [label == VALIDATION for label in labels]
    both = own[0] | own[1]
    predictions = np.stack([member.sessions["a"].prediction for member in members])
    mean = np.nanmean(np.where(np.stack(own)[..., None], predictions, np.nan)[:, both], axis=0)
    found = pick(scores, stimulus="validation", predictor="ensemble", metric="single_trial_correlation")
    expected = [np.corrcoef(mean[:, i], recording.responses[both, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)
    sizes = scores[scores["stimulus"] == "validation"].groupby("predictor")["n_bins"].first()
    assert sizes["ensemble"] == both.sum()
    assert sizes["fold0_seed0"] == own[0].sum() < both.sum()


def test_masked_bins_enter_no_score(example: tuple) -> None:
    recording, members, scores = example
    spoiled = recording.responses.copy()
    masked = np.zeros(recording.n_bins, bool)
    second_repeat = np.flatnonzero(recording.trial == 4)
    masked[second_repeat[20:50]] = True
    masked[60:70] = True
    spoiled[masked] = np.nan
    with_gaps = score_experiment([replace(recording, responses=spoiled, valid=~masked)], members, CONFIG)
    finite = pick(with_gaps, stimulus="probe_a", predictor="ensemble", metric="correlation_to_average")
    complete = pick(scores, stimulus="probe_a", predictor="ensemble", metric="correlation_to_average")
    assert np.isfinite(finite[:2]).all()
    assert np.abs(finite - complete)[:2].max() < 0.05
    assert (finite != complete)[:2].all()
    responses = side_by_side(recording, spoiled, "probe_a")
    assert np.isnan(responses).any()
    prediction = np.mean(
        [side_by_side(recording, m.sessions["a"].prediction, "probe_a")[:, 0] for m in members], axis=0
    )
    np.testing.assert_allclose(finite[:2], correlation_to_average(responses, prediction)[:2], rtol=1e-6)


def test_intervals_hold_the_value_and_need_repeats(example: tuple) -> None:
    recording, members, scores = example
    rows = scores[scores["included"] & (scores["metric"] == "correlation_to_average")]
    assert (rows["ci_low"] < rows["value"]).all()
    assert (rows["value"] < rows["ci_high"]).all()
    for n_repeats in (2, 3, 4):
        few = score_experiment([replace(recording, valid=recording.bin_column("repeat") < n_repeats)], members, CONFIG)
        assert few["ci_low"].isna().all() == (n_repeats < 4), "three repeats are too few to resample"
    without = score_experiment([recording], members, CONFIG | {"bootstrap": {"n": 0, "level": 0.95, "seed": 0}})
    assert without["ci_low"].isna().all()


def test_scores_do_not_depend_on_the_order_of_members_and_survive_the_file(example: tuple, tmp_path: Path) -> None:
    recording, members, scores = example
    again = score_experiment([recording], members[::-1], CONFIG)
    pd.testing.assert_frame_equal(again, scores)
    assert list(scores.columns) == COLUMNS
    assert not scores.duplicated(["session", "neuron", "stimulus", "predictor", "metric"]).any()
    write_scores(scores, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), scores, check_dtype=False, check_exact=True)


def test_no_score_depends_on_how_many_neurons_are_scored_together(
    example: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, members, scores = example
    monkeypatch.setattr("coread.eval.scores.BLOCK_VALUES", 1)
    one_by_one = score_experiment([recording], members, CONFIG)
    pd.testing.assert_frame_equal(one_by_one, scores, check_exact=False, rtol=1e-9)


def test_responses_that_can_be_negative_have_no_poisson_loss(example: tuple) -> None:
    recording, members, scores = example
    assert scores[scores["metric"] == "poisson_loss"]["value"].notna().all()
    shifted = recording.responses - np.array([0, 1, 0, 0], np.float32)
    fluorescence = score_experiment([replace(recording, responses=shifted)], members, CONFIG)
    loss = fluorescence[fluorescence["metric"] == "poisson_loss"].groupby("neuron")["value"].count()
    assert loss[1] == 0
    assert (loss[[0, 2, 3]] > 0).all()
    same = pick(fluorescence, stimulus="probe_a", predictor="ensemble", metric="correlation_to_average")
    expected = pick(scores, stimulus="probe_a", predictor="ensemble", metric="correlation_to_average")
    np.testing.assert_allclose(same, expected, rtol=1e-5)


def test_what_does_not_fit_is_named(example: tuple, tmp_path: Path) -> None:
    recording, members, _ = example
    with pytest.raises(ScoreError, match="no predictions to score"):
        score_experiment([recording], [], CONFIG)
    with pytest.raises(ScoreError, match="fold0_seed0 has no predictions of session 'b', only \\['a'\\]"):
        score_experiment([replace(recording, session="b")], members, CONFIG)
    with pytest.raises(ScoreError, match="two members are called fold0_seed0"):
        score_experiment([recording], [members[0], members[0]], CONFIG)
    prediction, label = members[0].sessions["a"]
    short = replace(members[0], sessions={"a": SessionPrediction(prediction[:-1], label[:-1])})
    with pytest.raises(
        ScoreError, match=r"fold0_seed0 predicts \(bin, neuron\) \(1299, 4\), the recording has \(1300, 4\)"
    ):
        score_experiment([recording], [short], CONFIG)
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ScoreError, match=r"scores\.csv: columns are"):
        read_scores(tmp_path / "scores.csv")
