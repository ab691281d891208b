"""The simulated visual cortex against its own ground truth."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from coread.cli import create_data
from coread.data_io.readers.sensorium_2022_images import rescale
from coread.data_io.readers.simulated_cortex import write_sessions
from coread.data_io.simulate import cortex_dynamics as dynamics
from coread.data_io.simulate.cortex_cells import CellBank, Population, Retinotopy, image_drive, retinotopic_map
from coread.data_io.simulate.cortex_images import Photographs, natural_images, seen_images
from coread.data_io.simulate.cortex_truth import EFFECTS, best_possible_correlation, best_possible_prediction
from coread.data_io.sources import build_recording, build_recordings, list_sessions
from coread.eval.metrics import correlation_numpy
from coread.recording import read_recording, validate, write_recording

CONFIGS = Path(__file__).parents[2] / "configs" / "data_io"
SESSION = "cortex-1-1"
SMALL = {
    "sessions": [SESSION],
    "neurons": 40,
    "presentations": {
        "train": 250,
        "validation": 20,
        "test": 6,
        "final_test": 4,
        "repeats": 5,
        "spacing_s": [0.8, 1.0],
    },
}


def configuration(**changes):
    """Return the shipped configuration, made small, with changes by dotted key (`__` for the dot)."""
    config = yaml.safe_load((CONFIGS / "simulated_cortex.yaml").read_text()) | copy.deepcopy(SMALL)
    config["images"] |= {"train_photographs": ["astronaut", "grass"], "test_photographs": ["camera"]}
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = config
        for key in path:
            node = node[key]
        node[last] = value
    return config


def record(**changes):
    config = configuration(**changes)
    return build_recording(config, config["sessions"][0])


@pytest.fixture(scope="module")
def recording():
    return record()


@pytest.fixture(scope="module")
def recording_without():
    """Return sessions with one effect switched off, each simulated once."""
    made = {}

    def without(effect):
        if effect not in made:
            made[effect] = record(**{f"{effect}__enabled": False})
        return made[effect]

    return without


# ------------------------------------------------------------------------------------------------------------ recording


def test_a_recording_went_through_the_published_layout(recording):
    validate(recording)
    assert recording.trials["tier"].value_counts().to_dict() == {"train": 250, "validation": 20, "test": 30}
    images = recording.stimuli["images"]
    assert images.frames.shape == (276, 1, 28, 38)
    assert (np.asarray(images.frames) * images.scale * 4 % 1 == 0).all()  # means of four grey levels, kept exactly
    assert recording.neurons["unit_id"].is_monotonic_increasing
    assert recording.behaviour.shape == (300, 3)
    assert (recording.responses >= 0).all()
    assert 0 < (recording.responses == 0).mean() < 0.5
    assert recording.species == "simulation"
    assert any("astronaut" in name for name in recording.source)


def test_time_order_is_recovered_from_time_stamps_of_whole_seconds(recording):
    assert recording.session_info["time_ties"] > 20
    assert (recording.trials["time_order"] == recording.session_info["truth_time_order"]).all()
    assert (np.diff(recording.trials["time_order"]) < 0).mean() > 0.4  # the files are in another order


def test_all_of_the_truth_survives_the_recording_file(recording, tmp_path):
    write_recording(recording, tmp_path / "session.h5")
    again = read_recording(tmp_path / "session.h5")
    names = {name for name in recording.session_info if name.startswith("truth_")}
    assert len(names) > 20
    assert all((again.session_info[name] == recording.session_info[name]).all() for name in names)
    assert (best_possible_correlation(again) == best_possible_correlation(recording)).all()


def test_repeats_share_images_and_sessions_share_test_images():
    first, second = build_recordings(configuration(sessions=["cortex-1-1", "cortex-2-1"], presentations__train=60))
    for recording in (first, second):
        test = recording.trials[recording.trials["tier"] == "test"].assign(
            frame=recording.frame[recording.trials["tier"] == "test"]
        )
        assert (test.groupby("image_id")["frame"].nunique() == 1).all()
        assert (test.groupby("image_id")["repeat"].apply(sorted).map(tuple) == (0, 1, 2, 3, 4)).all()
    frames = [
        {
            number: recording.stimuli["images"].frames[frame].tobytes()
            for number, frame in zip(recording.trials["image_id"], recording.frame, strict=True)
        }
        for recording in (first, second)
    ]
    shared = frames[0].keys() & frames[1].keys()
    assert shared == set(first.trials.loc[first.trials["tier"] == "test", "image_id"])
    assert all(frames[0][number] == frames[1][number] for number in shared)
    assert len({*frames[0].values(), *frames[1].values()}) == 2 * 86 - 6
    assert (first.session_info["truth_center_px"] != second.session_info["truth_center_px"]).all()


def test_seeds_reproduce_and_differ(recording):
    again, other = record(), record(seed=1)
    assert (again.responses == recording.responses).all()
    assert (other.session_info["truth_gain"] != recording.session_info["truth_gain"]).all()
    assert (
        (np.asarray(other.stimuli["images"].frames) != np.asarray(recording.stimuli["images"].frames))
        .any((1, 2, 3))
        .all()
    )


def test_a_competition_session_withholds_its_test_responses(recording):
    competes = record(competition_sessions=[SESSION], presentations__train=120)
    tiers = competes.trials["tier"]
    assert tiers.value_counts().to_dict() == {"train": 120, "validation": 20, "test": 30, "final_test": 20}
    assert (competes.trials["withheld"] == tiers.isin(["test", "final_test"])).all()
    assert (competes.valid == ~competes.trials["withheld"]).all()
    assert np.isnan(competes.responses[competes.trials["withheld"]]).all()
    assert competes.trials["trial_id"].str.fullmatch("[0-9a-f]{32}").all()
    moved = np.abs(competes.trials["time_order"] - competes.session_info["truth_time_order"])
    assert 0 < (moved > 0).sum() <= competes.session_info["time_ties"]
    assert moved.max() == 1
    assert best_possible_prediction(competes).shape == competes.responses.shape
    with pytest.raises(ValueError, match=r"'cortex-1-1'.*50 trials are withheld"):
        best_possible_prediction(competes, without=["gain"])
    with pytest.raises(ValueError, match="no valid responses in tier 'test'"):
        best_possible_correlation(competes)


def test_a_session_without_behaviour_still_moves():
    blind = record(sessions_without_behaviour=[SESSION], presentations__train=60)
    assert blind.behaviour is None
    assert blind.pupil_center is None
    assert blind.session_info["truth_eye_shift_px"].std() > 0.5


def test_units_change_only_the_recorded_numbers(recording):
    units = {SESSION: {"factor": [0.04, 0.04, -2.5], "offset": [12.0, 0.0, 0.0]}}
    other = record(behaviour__units=units)
    assert (other.responses == recording.responses).all()
    assert (other.pupil_center == recording.pupil_center).all()
    expected = recording.behaviour * np.array([0.04, 0.04, -2.5]) + np.array([12.0, 0.0, 0.0])
    np.testing.assert_allclose(other.behaviour, expected, rtol=1e-5, atol=1e-5)
    assert (other.session_info["truth_behaviour"] == recording.session_info["truth_behaviour"]).all()


# -------------------------------------------------------------------------------------------------------- images, cells


def test_an_eye_that_looks_straight_ahead_sees_the_published_rescale():
    images = np.random.default_rng(0).integers(0, 256, (3, 144, 256), dtype=np.uint8)
    seen = seen_images(images, np.array([2, 0]), np.zeros((2, 2)))
    np.testing.assert_allclose(seen, rescale(images[[2, 0], None], 4)[:, 0] / 127.5 - 1, atol=1e-6)


def test_a_moved_eye_sees_the_moved_screen():
    images = np.random.default_rng(0).integers(0, 256, (1, 144, 256), dtype=np.uint8)
    still, moved = seen_images(images, np.array([0, 0]), np.array([[0.0, 0.0], [2.0, -3.0]]))
    np.testing.assert_allclose(moved[:-2, 3:], still[2:, :-3], atol=1e-6)
    quarter = seen_images(images, np.array([0]), np.array([[0.25, 0.0]]))[0]
    blocks = images[0].reshape(36, 4, 64, 4)[:, 2:4, :, 1:3].mean((1, 3)) / 127.5 - 1
    np.testing.assert_allclose(quarter, blocks, atol=1e-6)
    eighth = seen_images(images, np.array([0]), np.array([[0.125, 0.0]]))[0]
    np.testing.assert_allclose(eighth, (still + quarter) / 2, atol=1e-6)


def test_natural_images_have_equal_mean_and_contrast():
    photographs = Photographs(["astronaut"], ["camera"], 200, (0.5, 1.0), 0.2)
    images = natural_images(["astronaut"], 20, photographs, np.random.default_rng(0)) / 127.5 - 1
    assert np.abs(images.mean((1, 2))).max() < 0.02
    assert np.abs(images.std((1, 2)) - 0.2).max() < 0.02
    assert len({image.tobytes() for image in images}) == 20
    neighbours = [np.corrcoef(image[:, 4:].ravel(), image[:, :-4].ravel())[0, 1] for image in images]
    assert min(neighbours) > 0.6  # a photograph, not noise


@pytest.fixture(scope="module")
def noise():
    """Return checks of one pixel that are independent of each other."""
    checks = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (1500, 36, 64))
    return checks.repeat(4, axis=1).repeat(4, axis=2)


def population(n_neurons, is_simple, center, **changes):
    values = {
        "position_um": np.zeros((n_neurons, 3)),
        "center_px": np.asarray(center, float),
        "is_simple": np.full(n_neurons, is_simple),
        "orientation": np.zeros(n_neurons),
        "phase": np.zeros(n_neurons),
        "wavelength_px": np.full(n_neurons, 6.0),
        "envelope_px": np.full(n_neurons, 2.0),
        "tuning": np.ones(n_neurons),
        "mean_response": np.ones(n_neurons),
    }
    return Population(**(values | changes))


def center_of_mass(field):
    weight = np.square(field) * (np.abs(field) > np.abs(field).max() / 3)
    return np.array([(weight * grid).sum() for grid in np.indices(field.shape)]) / weight.sum()


@pytest.mark.parametrize("eye", [(0.0, 0.0), (3.0, -4.5)])
def test_reverse_correlation_finds_the_field_at_its_center_plus_the_eyes_displacement(noise, eye):
    centers = np.array([[12.0, 20.0], [17.3, 40.6], [20.0, 30.25]])
    cells = population(3, True, centers, orientation=np.array([0.0, np.pi / 4, np.pi / 2]))
    trials = np.arange(len(noise))
    drive, _ = image_drive(cells, noise, trials, np.tile(eye, (len(noise), 1)), np.ones(len(noise), bool))
    assert np.abs(drive.mean(0) - 1).max() < 1e-4
    assert np.abs(drive.std(0) - 1).max() < 1e-3
    contrast = noise[:, 1::4, 1::4] / 127.5 - 1
    average = np.einsum("tn,tyx->nyx", drive - 1, contrast) / len(noise)
    found = np.array([center_of_mass(field) for field in average])
    assert np.abs(found - (centers + eye)).max() < 0.5


def test_a_field_that_moves_with_the_eye_is_sharp_only_relative_to_gaze(noise):
    cells = population(1, True, [[17.0, 30.0]])
    gaze = 2.0 * np.random.default_rng(1).standard_normal((len(noise), 2))
    trials = np.arange(len(noise))
    drive, _ = image_drive(cells, noise, trials, gaze, np.ones(len(noise), bool))
    peaks = [
        np.abs(np.einsum("t,tyx->yx", drive[:, 0] - 1, seen)).max()
        for seen in (seen_images(noise, trials, gaze), seen_images(noise, trials, 0 * gaze))
    ]
    assert peaks[0] > 1.5 * peaks[1]


def test_complex_cells_do_not_care_for_phase_and_both_prefer_their_orientation():
    y, x = np.mgrid[:36, :64]
    phases = np.arange(8) * np.pi / 4
    across = np.stack([np.cos(2 * np.pi * y / 6 + phase) for phase in phases]).astype(np.float32)
    along = np.stack([np.cos(2 * np.pi * x / 6 + phase) for phase in phases]).astype(np.float32)
    for is_simple in (True, False):
        bank = CellBank(population(1, is_simple, [[17.0, 30.0]]), (36, 64))
        preferred, other = bank(across)[:, 0], bank(along)[:, 0]
        assert preferred.max() > 20 * other.max()
        if is_simple:
            assert preferred.min() == 0
        else:
            assert preferred.std() < 0.02 * preferred.mean()


def test_recorded_responses_depend_on_the_image_at_the_true_center(recording_without):
    still = recording_without("eye")
    truth = still.session_info
    fields = {name: truth[f"truth_{name}"] for name in Population.__dataclass_fields__ if name != "position_um"}
    images = still.stimuli["images"]
    contrast = ((images.frames[:, 0] * images.scale + images.offset) / 127.5 - 1).astype(np.float32)
    cells = Population(position_um=np.zeros((still.n_neurons, 3)), **fields)

    def score(shift):
        moved = CellBank(replace(cells, center_px=cells.center_px + shift), contrast.shape[1:])(contrast)[still.frame]
        return correlation_numpy(still.responses, moved, axis=0).mean()

    elsewhere = [score(np.array(shift)) for shift in ((4, 0), (-4, 0), (0, 4), (0, -4))]
    assert score(np.zeros(2)) > 0.15 + max(elsewhere)


def test_the_cortical_map_is_smooth_and_keeps_to_its_part_of_the_image():
    recording = record(retinotopy__jitter_px=0.0, neurons=200, presentations__train=20)
    position = recording.neurons[["position_x_um", "position_y_um"]].to_numpy()
    center = recording.session_info["truth_center_px"]
    assert (np.abs(center - np.array([13.5, 18.5])) <= np.array([6.0, 9.0])).all()
    assert (np.ptp(center, axis=0) > 0.75 * np.array([12.0, 18.0])).all()
    scaled = (position - position.mean(0)) / position.std(0)
    design = np.column_stack([np.ones(200), scaled, scaled**2, scaled[:, :1] * scaled[:, 1:]])
    residual = center - design @ np.linalg.lstsq(design, center, rcond=None)[0]
    assert residual.std() < 0.05
    linear = center - design[:, :3] @ np.linalg.lstsq(design[:, :3], center, rcond=None)[0]
    assert linear.std() > 5 * residual.std()  # it bends


# -------------------------------------------------------------------------------------------------------------- effects

INJECTED = {
    "eye": ["image_drive"],
    "behaviour": ["behaviour_coupling"],
    "state": ["state_loadings"],
    "history": ["history_weights"],
    "gain": ["gain"],
}


def trace(recording, effect):
    """Return slope and standard error of what the other effects leave over on what this effect would add."""
    others = set(EFFECTS) - {effect}
    added = best_possible_prediction(recording, others) - best_possible_prediction(recording, EFFECTS)
    left = recording.responses - best_possible_prediction(recording, [effect])
    added, left = (
        added / recording.session_info["truth_mean_response"],
        left / recording.session_info["truth_mean_response"],
    )
    added = added - added.mean(0)
    slope = (added * left).sum() / np.square(added).sum()
    return slope, np.sqrt(np.square(added * left).sum()) / np.square(added).sum()


@pytest.mark.parametrize("effect", EFFECTS)
def test_an_effect_leaves_a_trace_only_where_it_is_switched_on(recording, recording_without, effect):
    slope, error = trace(recording, effect)
    assert slope > 10 * error
    assert slope == pytest.approx(1, abs=0.4)
    off = recording_without(effect)
    truth = {f"truth_{name}": recording.session_info[f"truth_{name}"] for name in INJECTED[effect]}
    slope, error = trace(replace(off, session_info=off.session_info | truth), effect)
    assert error < 0.1
    assert abs(slope) < 3.5 * error


@pytest.mark.parametrize("effect", EFFECTS)
def test_switching_an_effect_off_changes_no_other_truth(recording, recording_without, effect):
    off = recording_without(effect).session_info
    consequences = {"rate", "usual_response", "drive_scaling", "eye_shift_px", *INJECTED[effect]}
    if effect == "eye":
        consequences.add("image_drive")
    same = {name for name in off if name.startswith("truth_")} - {f"truth_{name}" for name in consequences}
    assert len(same) > 15
    assert all((off[name] == recording.session_info[name]).all() for name in same)
    assert (off["truth_rate"] != recording.session_info["truth_rate"]).any()


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_prediction_from_the_parts_is_the_rate_that_was_simulated(recording_without, effect):
    off = recording_without(effect)
    from_parts = best_possible_prediction(off, [effect])  # what is switched off adds nothing
    np.testing.assert_allclose(from_parts, best_possible_prediction(off), rtol=2e-3, atol=1e-4)


def test_knowing_everything_predicts_best(recording):
    best = best_possible_correlation(recording, "train").mean()
    partial = {effect: best_possible_correlation(recording, "train", [effect]).mean() for effect in EFFECTS}
    assert 0.6 < best < 0.85
    assert {effect: best - score for effect, score in partial.items() if best - score < 0.01} == {}
    assert best_possible_correlation(recording, "train", EFFECTS).mean() < min(partial.values())
    with pytest.raises(ValueError, match=r"unknown effects \['pupil'\]"):
        best_possible_prediction(recording, ["pupil"])


def test_the_best_score_is_what_the_noise_allows(recording):
    """Compound Poisson noise has variance mean * mean response * (1 + 1 / shape) / events."""
    rate, size = recording.session_info["truth_rate"], recording.session_info["truth_mean_response"]
    noise = rate * size * (1 + 1 / 3.0) / 2.0
    squares = np.square(recording.responses - rate)
    assert abs((squares - noise).sum()) < 4 * np.linalg.norm(squares - noise)  # its standard error: a martingale's
    assert abs((recording.responses - rate).sum()) < 4 * np.sqrt(noise.sum())
    expected = np.sqrt(rate.var(0) / (rate.var(0) + noise.mean(0)))
    found = correlation_numpy(recording.responses, best_possible_prediction(recording), axis=0)
    assert (found - expected).mean() == pytest.approx(0, abs=0.02)


def test_a_recording_without_truth_has_no_best_prediction(make_recording):
    with pytest.raises(ValueError, match=r"'session_0'.*is no simulated cortex"):
        best_possible_prediction(make_recording())


# --------------------------------------------------------------------------------------------------------- time courses


def in_time(recording, name):
    return recording.session_info[f"truth_{name}"][np.argsort(recording.session_info["truth_time_order"])]


def test_time_courses_are_as_slow_as_they_are_said_to_be(recording):
    gain, state = in_time(recording, "gain"), in_time(recording, "state")
    assert gain.mean() == pytest.approx(1, abs=1e-5)
    # white noise under a Gaussian of 60 trials: a step has sqrt(2 - 2 exp(-1 / 4 / 60^2)) = .012 of the process's
    # deviation; of so short a stretch the deviation is smaller, by a factor of 2 at the most
    assert np.diff(gain).std() < 0.024 * gain.std()
    assert state.min() >= 0
    assert np.corrcoef(gain, recording.session_info["truth_gain"])[0, 1] < 0.5  # the files are shuffled
    node = configuration()
    settings = [getattr(dynamics, name.capitalize())(**node[name]) for name in ("eye", "behaviour", "state", "gain")]
    courses = dynamics.draw_time_courses(20_000, *settings, [np.random.default_rng(seed) for seed in range(4)])
    drift = np.log(courses.gain)
    assert np.corrcoef(drift[60:], drift[:-60])[0, 1] == pytest.approx(np.exp(-1 / 4), abs=0.06)  # sigma of 60 trials
    assert drift.std() == pytest.approx(0.25)
    assert courses.state.mean(0) == pytest.approx([1, 1, 1], abs=0.1)
    process = dynamics.slow_process(20_000, 2, 10.0, np.random.default_rng(0))
    assert process.std(0) == pytest.approx([1, 1], abs=0.1)
    assert [np.corrcoef(process[10:, i], process[:-10, i])[0, 1] for i in range(2)] == pytest.approx(
        [np.exp(-1)] * 2, abs=0.07
    )
    start = np.array([dynamics.slow_process(2, 50, 10.0, np.random.default_rng(seed))[0] for seed in range(40)])
    assert start.std() == pytest.approx(1, abs=0.06)


def test_the_camera_sees_the_eye_in_units_of_its_own(recording):
    eye = recording.session_info["truth_eye_px"][:, ::-1]
    design = np.column_stack([np.ones(len(eye)), eye])
    weights = np.linalg.lstsq(design, recording.pupil_center, rcond=None)[0]
    np.testing.assert_allclose(design @ weights, recording.pupil_center, rtol=1e-4)
    assert (np.diag(weights[1:]) > 1.9).all()
    assert np.abs(weights[1:][~np.eye(2, dtype=bool)]).max() < 1e-3
    other = record(seed=1, presentations__train=60)
    assert np.abs(other.pupil_center.mean(0) - recording.pupil_center.mean(0)).min() > 0.5


def test_history_looks_only_back_and_as_far_as_its_lags():
    drive = np.ones((80, 1), np.float32)
    still = dynamics.TimeCourses(np.zeros((80, 2)), np.zeros((80, 3)), np.zeros(80), np.ones((80, 1)), np.ones(80))
    cells = dynamics.Couplings(np.zeros(1), np.zeros((1, 1)), np.array([[0.3, 0.3]]), np.zeros(1))
    arguments = (np.arange(80), still, cells, [1, 5], dynamics.Noise(2.0, 3.0))
    responses, means, usual = dynamics.respond(drive, *arguments, np.random.default_rng(0))
    past = np.concatenate([np.full(5, usual[0]), responses[:, 0]]) - usual[0]
    history = 0.3 * past[4:84] + 0.3 / 5 * sum(past[5 - lag : 85 - lag] for lag in range(1, 6))
    np.testing.assert_allclose(means[:, 0], dynamics.rectify(1 + np.clip(history, -1, 1)), rtol=1e-5)


def test_no_response_runs_away():
    config = configuration(history__weights=[0.3, 0.2, 0.2, 0.1, 0.1], history__spread=0.0, gain__strength=0.8)
    responses = build_recording(config, SESSION).responses
    assert responses.mean() < 20
    with pytest.raises(ValueError, match=r"data_io.history: the weights of a cell add up to 1.20"):
        record(history__weights=[0.4, 0.2, 0.2, 0.2, 0.2], history__spread=0.0)


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eye__sd": 1}, r"data_io.eye: unknown keys \['sd'\]; known keys are \['camera_gain'"),
        ({"colour": 1}, r"data_io: unknown keys \['colour'\]"),
        ({"gain": None}, "data_io.gain: expected a mapping"),
        ({"neurons": 0}, "data_io.neurons: expected 1 or more, found 0"),
        ({"images__test_photographs": ["grass"]}, r"photographs \['grass'\] are in both"),
        (
            {"images__screen_px": [144, 255]},
            r"data_io.images.screen_px: expected two multiples of 4, found \[144, 255\]",
        ),
        ({"images__zoom": [2.0, 1.0]}, "data_io.images.zoom: expected two rising numbers"),
        ({"cells__simple_share": 2}, "expected a share of 0..1, found 2"),
        ({"cells__wavelengths_px": []}, "data_io.cells: orientations, phases and wavelengths_px"),
        ({"retinotopy__extent_px": [12.0, 64.0]}, r"data_io.retinotopy: receptive fields around \[13.5, 18.5\] with"),
        ({"history__lags": [1, 2]}, "data_io.history: expected one weight for every lag"),
        ({"presentations__repeats": 0}, "data_io.presentations: expected"),
        ({"behaviour__units": {SESSION: {"factor": [1, 0, 1]}}}, "data_io.behaviour.units: expected 3 factors"),
        ({"behaviour__units": {"mouse-1-1": {}}}, r"data_io.behaviour.units names \['mouse-1-1'\]"),
        ({"competition_sessions": ["mouse-1-1"]}, r"data_io.competition_sessions names \['mouse-1-1'\]"),
        ({"sessions": ["retina_0"]}, "data_key is <animal>-<session>-<scan>, found 'retina_0'"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


def test_sessions_are_named():
    with pytest.raises(ValueError, match="needs the names of its sessions"):
        list_sessions(configuration(sessions=None))
    with pytest.raises(ValueError, match=r"session 'cortex-9-1' is not one of the simulated sessions \['cortex-1-1'\]"):
        build_recording(configuration(), "cortex-9-1")


def test_the_map_is_linear_without_curvature():
    flat = Retinotopy(**configuration()["retinotopy"] | {"curvature": 0.0})
    corners = retinotopic_map(np.array([[0.0, 0.0], [620.0, 620.0], [310.0, 310.0]]), flat)
    np.testing.assert_allclose(corners, [[7.5, 9.5], [19.5, 27.5], [13.5, 18.5]])


# ---------------------------------------------------------------------------------------------------------------- files


def test_sessions_written_for_users_are_read_by_the_published_reader(recording, tmp_path):
    paths = write_sessions(configuration(), tmp_path, zipped=True)
    assert [path.suffix for path in paths] == [".zip"]
    read = build_recording({"dataset": "mine", "reader": "sensorium_2022", "sessions": [SESSION]}, SESSION, tmp_path)
    assert (read.responses == recording.responses).all()
    assert not any(name.startswith("truth_") for name in read.session_info)


def test_create_data_writes_sessions_of_a_named_simulation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "coread.config.compose_data_io", lambda name: configuration(presentations__train=20) | {"dataset": name}
    )
    create_data.main([str(tmp_path), "--cortex", "simulated_cortex"])
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith(f"static{SESSION}-GrayImageNet-")
    assert len(list((folder / "data" / "images").iterdir())) == 20 + 20 + 30
    assert "wrote 1 session" in capsys.readouterr().out
