"""What a model has learned, read from planted parts, and its figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.static_images import EVALUATION, LAGS, N_NEURONS, SHAPE, make_member, make_predictions, make_recording

from coread.eval.learned import has_learned_parts, learned_of_session, mean_over_members, true_of_session
from coread.eval.scores import score_experiment
from coread.models.member import Member
from coread.modules.modulator import HistoryStateGainModulator
from coread.plotting import write_figures
from coread.plotting.images import draw_image_responses
from coread.plotting.learned import LEARNED_FIGURES, LearnedSession, draw_gain, draw_learned, draw_shifter
from coread.recording import Recording
from coread.report.contents import FIGURES


@pytest.fixture(scope="module")
def example() -> tuple[list[Recording], list[Member]]:
    recordings = [make_recording("a", 0), make_recording("b", 1)]
    return recordings, [make_member(recordings, fold, 100 + fold) for fold in range(2)]


def test_the_gain_of_a_trial_is_that_of_its_rank_in_time(example: tuple) -> None:
    (recording, _), (member, _) = example
    modulator = member.model.modulator["a"]
    with torch.no_grad():
        modulator.own_gain.copy_(torch.linspace(-1, 1, recording.n_bins))
    learned = learned_of_session(member, recording)
    over_time = modulator.gain_over_time().detach().numpy()
    np.testing.assert_allclose(learned.gain, over_time[recording.trials["time_order"]], rtol=1e-5)
    assert np.ptp(learned.gain) > 0.5


def test_a_causal_gain_is_told_too(example: tuple) -> None:
    (recording, _), (member, _) = example
    causal = HistoryStateGainModulator(
        N_NEURONS, include_history=False, include_state=False, gain="causal", nr_history=len(LAGS)
    )
    with torch.no_grad():
        causal.causal_gain.filter.fill_(0.3)
    smoother = member.model.modulator["a"]
    try:
        member.model.modulator["a"] = causal
        learned = learned_of_session(member, recording)
    finally:
        member.model.modulator["a"] = smoother
    assert learned.history_weights is None
    assert learned.state_loadings is None
    gain = learned.gain
    assert gain is not None
    slow = true_of_session(recording).gain  # type: ignore[union-attr]
    assert np.corrcoef(gain, slow)[0, 1] > 0.3, "the population's recent responses follow the gain"


def test_positions_and_shifts_are_in_pixels_of_the_stimulus(example: tuple) -> None:
    (recording, _), (member, _) = example
    readout, height, width = member.model.readout["a"], *SHAPE[1:]
    with torch.no_grad():
        readout._mu.zero_()
        readout._mu[0, 1, 0] = torch.tensor([1.0, -1.0])  # right end, upper end of the core's output
    learned = learned_of_session(member, recording)
    assert learned.position_px is not None
    np.testing.assert_allclose(learned.position_px[0], [(width - 1) / 2, (height - 1) / 2])
    # filters of 5 pixels without padding: the output's outer pixels see the third of the image
    np.testing.assert_allclose(learned.position_px[1], [width - 3, 2])
    shifter = member.model.shifter["a"]
    pupil = torch.as_tensor(recording.pupil_center)
    scored = (pupil - pupil[member.data_info["labels"]["a"] == 0].mean(0)) / pupil[
        member.data_info["labels"]["a"] == 0
    ].std(0, correction=0)
    expected = shifter(scored).detach().numpy() * np.array([width - 5, height - 5]) / 2
    np.testing.assert_allclose(learned.shift_px, expected, atol=0.02)


def test_the_truth_is_in_the_same_units_and_order(example: tuple) -> None:
    (recording, _), _ = example
    truth = true_of_session(recording)
    assert truth is not None
    info = recording.session_info
    np.testing.assert_allclose(truth.gain, info["truth_gain"])
    np.testing.assert_allclose(truth.shift_px, info["truth_eye_shift_px"][:, ::-1])
    np.testing.assert_allclose(truth.position_px, info["truth_center_px"][:, ::-1])
    coupled = replace(recording, session_info=info | {"truth_gain_coupling": np.array([0.5, 2.0])})
    expected = (info["truth_gain"] ** 0.5 + info["truth_gain"] ** 2) / 2
    np.testing.assert_allclose(true_of_session(coupled).gain, expected)  # type: ignore[union-attr]
    assert true_of_session(replace(recording, session_info={})) is None


def test_members_are_averaged_but_not_their_states(example: tuple) -> None:
    (recording, _), members = example
    learned = {str(member.seed): learned_of_session(member, recording) for member in members}
    mean = mean_over_members(learned)
    first, second = learned.values()
    np.testing.assert_allclose(mean.history_weights, (first.history_weights + second.history_weights) / 2)
    np.testing.assert_array_equal(mean.state_loadings, first.state_loadings)
    assert mean.history_lags.tolist() == LAGS  # type: ignore[union-attr]


def sessions_of(example: tuple, truth: bool = True) -> list[LearnedSession]:
    recordings, members = example
    return [
        LearnedSession(
            recording,
            {f"fold{member.fold}_seed{member.seed}": learned_of_session(member, recording) for member in members},
            true_of_session(recording) if truth else None,
        )
        for recording in recordings
    ]


def test_the_gain_is_drawn_in_the_order_of_time_beside_the_true_one(example: tuple) -> None:
    sessions = sessions_of(example)
    drawing = draw_gain(sessions)
    assert drawing is not None
    axes = drawing.figure.axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    order = np.argsort(sessions[0].recording.trials["time_order"])
    true = sessions[0].recording.session_info["truth_gain"]
    np.testing.assert_allclose(lines["true"], (true / true.mean())[order])
    expected = np.corrcoef(sessions[0].mean.gain, true)[0, 1]  # type: ignore[arg-type]
    assert f"a: r = {expected:.3f}" in drawing.caption
    without = draw_gain(sessions_of(example, truth=False))
    assert without is not None
    assert "true" not in [line.get_label() for line in without.figure.axes[0].lines]
    assert "simulation" not in without.caption


def test_shifts_without_a_truth_are_drawn_against_the_pupil(example: tuple) -> None:
    drawing = draw_shifter(sessions_of(example, truth=False))
    assert drawing is not None
    assert drawing.figure.get_supxlabel() == "pupil centre (recorded units)"
    assert "the pupil centre" in drawing.caption
    known = draw_shifter(sessions_of(example))
    assert known is not None
    assert known.figure.get_supxlabel() == "true eye position (px)"


def test_figures_of_parts_that_a_model_lacks_are_left_out(example: tuple) -> None:
    sessions = [
        replace(session, members={name: type(part)() for name, part in session.members.items()})
        for session in sessions_of(example)
    ]
    assert [name for name, draw in LEARNED_FIGURES.items() if draw(sessions) is not None] == []
    drawn = {name: draw(sessions_of(example)) for name, draw in LEARNED_FIGURES.items()}
    assert all(drawing is not None and len(drawing.caption) > 50 for drawing in drawn.values())
    assert not has_learned_parts(torch.nn.Linear(1, 1))


def test_measured_responses_to_images_are_drawn_against_predicted_ones() -> None:
    recording = make_recording("a", 0)
    predictions = make_predictions([recording])
    scores = score_experiment([recording], predictions, EVALUATION)
    drawing = draw_image_responses([recording], predictions, scores)
    assert drawing is not None
    best = scores[(scores["predictor"] == "ensemble") & (scores["metric"] == "correlation_to_average")]
    best = best.sort_values("value").iloc[-1]
    axes = drawing.figure.axes[0]
    assert axes.get_title(loc="left") == f"a  {best['unit_id']}\nr = {best['value']:.2f}"
    (dots,) = [one for one in axes.collections if len(getattr(one, "get_sizes", list)())]
    x, y = np.asarray(dots.get_offsets()).T
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(best["value"], abs=1e-6)
    assert draw_image_responses([recording], predictions, scores[scores["tier"] == "validation"]) is None


def test_experiments_on_images_get_the_figures_of_images(
    example: tuple, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "coread.plotting.figures.save_drawing", lambda drawing, path: [path]
    )  # drawing files takes seconds
    recordings, members = example
    predictions = make_predictions(recordings)
    given = {
        "scores": score_experiment(recordings, predictions, EVALUATION),
        "histories": {},
        "recordings": recordings,
        "predictions": predictions,
        "fields": None,
    }
    names = {path.name for path in write_figures(tmp_path, **given, learned=draw_learned(recordings, members))}
    assert names == {"score_distribution", "image_responses", *LEARNED_FIGURES}
    assert names <= FIGURES.keys(), "the report shows all of them"
    assert {path.name for path in write_figures(tmp_path, **given)} == {"score_distribution", "image_responses"}
