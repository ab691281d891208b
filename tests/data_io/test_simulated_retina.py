"""The simulated retina against its own ground truth."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from scipy import stats

from coread.data_io.simulate import retina
from coread.data_io.simulate.cells import Kinetics, causal_filter, subunit_lattice
from coread.data_io.simulate.movies import EyeMovements, fixational_movie, load_photograph, quantise, white_noise
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions
from coread.recording import validate

CONFIG = Path(__file__).parents[2] / "configs" / "data_io" / "simulated_retina.yaml"
SMALL = {
    "sessions": ["retina_0"],
    "height": 12,
    "width": 13,
    "presentations": {
        "trial_s": 20.0,
        "movie_trials": 4,
        "noise_trials": 4,
        "test_movie_s": 6.0,
        "test_noise_s": 4.0,
        "repeats": 12,
    },
}


def configuration(**changes):
    """Return the shipped configuration, made small, with changes by dotted key (`__` for the dot)."""
    config = yaml.safe_load(CONFIG.read_text()) | copy.deepcopy(SMALL)
    for kind in config["cell_types"].values():
        kind["count"] = 2
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        node = config
        for key in path:
            node = node[key]
        node[last] = value
    return config


@pytest.fixture(scope="module")
def recording():
    config = configuration()
    return build_recording(config, "retina_0", None, build_stimuli(config, None))


def rows_of(recording, stimulus):
    return recording.bin_column("stimulus") == stimulus


def test_a_recording_is_valid_and_says_what_it_is(recording):
    validate(recording)
    assert recording.responses.dtype == np.float32
    assert recording.n_neurons == 16
    assert set(recording.neurons["model"]) == {"LN", "subunit"}
    assert set(recording.trials.query("tier == 'test'")["stimulus"]) == {"test_movie", "test_noise"}
    assert (recording.trials.query("stimulus == 'test_movie'")["repeat"].to_numpy() == np.arange(12)).all()
    assert recording.stimuli["movie"].frames.dtype == np.uint8
    assert recording.stimuli["movie"].frames.shape == (4 * 600, 1, 12, 13)
    assert recording.session_info["truth_filter"].shape == (16, 12, 1, 12, 13)
    assert recording.session_info["truth_rate"].shape == recording.responses.shape
    assert all(len(sha256) == 64 for sha256 in recording.source.values())


def test_a_training_trial_shows_its_own_frames(recording):
    first, past = recording.trial_bounds()
    movie = np.flatnonzero(recording.trials["stimulus"] == "movie")
    shown = [recording.frame[first[row] : past[row]] for row in movie]
    assert (np.concatenate(shown) == np.arange(2400)).all()
    repeat = np.flatnonzero(recording.trials["stimulus"] == "test_movie")[3]
    assert (recording.frame[first[repeat] : past[repeat]] == np.arange(180)).all()


def test_shipped_sessions_hold_enough_cells_of_every_kind():
    parameters = retina.reader_parameters(retina.RetinaParameters, yaml.safe_load(CONFIG.read_text()))
    kinds = parameters.cell_types.values()
    assert sum(kind.count for kind in kinds) >= 30
    assert {kind.polarity for kind in kinds} == {"ON", "OFF", "ON-OFF"}
    assert {kind.kinetics for kind in kinds} == {"transient", "sustained"}
    assert parameters.presentations.repeats >= 10


def test_spike_triggered_average_recovers_the_filters():
    config = configuration(
        noise__contrast=1.0, presentations__noise_trials=60, presentations__movie_trials=0, presentations__repeats=0
    )
    recording = build_recording(config, "retina_0", None, build_stimuli(config, None))
    frames = recording.stimuli["noise"].frames.reshape(-1, 600, 12 * 13)
    spikes = recording.responses.reshape(60, 600, -1)
    contrast = frames / 127.5 - 1
    sta = np.stack(
        [np.einsum("kbn,kbp->np", spikes[:, 12:], contrast[:, 12 - lag : 600 - lag]) for lag in range(12)], 1
    )
    truth = recording.session_info["truth_filter"].reshape(sta.shape)
    cosine = (sta * truth).sum((1, 2)) / np.linalg.norm(sta, axis=(1, 2))
    linear = recording.session_info["truth_model"] == b"LN"
    one_sided = recording.session_info["truth_polarity"] != 0
    assert cosine[linear].min() > 0.9
    assert cosine[one_sided].min() > 0.5
    strongest_lag = np.abs(truth).max(2).argmax(1)[:, None, None]
    image = np.take_along_axis(sta, strongest_lag, 1)[:, 0]
    peak = np.abs(image).argmax(1)
    center = np.stack(np.unravel_index(peak, (12, 13)), 1)
    distance = np.linalg.norm(center - recording.session_info["truth_center_px"], axis=1)
    assert distance[linear].max() < 1.0
    sign = np.sign(image[np.arange(len(peak)), peak])
    assert (sign[one_sided] == recording.session_info["truth_polarity"][one_sided]).all()


def test_repeats_are_poisson(recording):
    spikes = recording.responses[rows_of(recording, "test_movie")].reshape(12, 180, -1)
    rate = recording.session_info["truth_rate"][rows_of(recording, "test_movie")].reshape(12, 180, -1)
    assert (rate == rate[0]).all()
    mean, variance = spikes.mean(0), spikes.var(0, ddof=1)
    assert variance.sum() / mean.sum() == pytest.approx(1.0, abs=0.08)  # four standard errors
    total, expected = spikes.sum(), rate.sum()
    assert abs(total - expected) < 4 * np.sqrt(expected)
    dispersion = ((spikes - rate) ** 2).sum() / rate.sum()
    assert dispersion == pytest.approx(1.0, abs=0.08)


def test_true_rate_reaches_the_ceiling(recording):
    """The correlation of the true rate with the average of R repeats is sqrt(v / (v + m / R)) for Poisson spikes."""
    shown = rows_of(recording, "test_movie")
    average = recording.responses[shown].reshape(12, 180, -1).mean(0)
    rate = recording.session_info["truth_rate"][shown][:180]
    found = stats.pearsonr(rate, average, axis=0).statistic
    expected = np.sqrt(rate.var(0) / (rate.var(0) + rate.mean(0) / 12))
    assert np.abs(found - expected).max() < 0.08
    assert np.abs((found - expected).mean()) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_cell_is_weak(seed):
    config = configuration(seed=seed, height=16, width=18, presentations__test_movie_s=12.0, presentations__repeats=2)
    for recording in build_recordings(config | {"sessions": ["retina_0", "retina_1"]}):
        rate = recording.session_info["truth_rate"]
        training = recording.bin_column("tier") == "train"
        mean, variance = rate[training].mean(0), rate[training].var(0)
        explainable = variance / (variance + mean)
        assert 0.38 < explainable.min() < explainable.max() < 0.57
        assert 7.9 < mean.min() * 30 < mean.max() * 30 < 15.1
        test = rate[rows_of(recording, "test_movie")]
        assert (test.var(0) / (test.var(0) + test.mean(0))).min() > 0.15


def test_responses_are_causal():
    """A changed frame changes no earlier bin, and the memory ends after filter_bins."""
    config = configuration()
    stimuli = build_stimuli(config, None)
    before = build_recording(config, "retina_0", None, stimuli).session_info["truth_rate"]
    frames = stimuli["test_movie"].frames.copy()
    frames[100] = 255 - frames[100]
    changed = stimuli | {"test_movie": retina.Stimulus(frames, 30.0)}
    recording = build_recording(config, "retina_0", None, changed)
    difference = np.abs(recording.session_info["truth_rate"] - before).max(1)
    moved = recording.frame[(difference > 0) & rows_of(recording, "test_movie")]
    assert set(moved) <= set(range(100, 112))
    assert {100, 101, 104} <= set(moved)
    assert difference[~rows_of(recording, "test_movie")].max() == 0


def test_seeds_reproduce_and_differ():
    config = configuration(presentations__noise_trials=1, presentations__movie_trials=1)
    first, again = build_recordings(config)[0], build_recordings(config)[0]
    assert (first.responses == again.responses).all()
    other = build_recordings(config | {"seed": 1})[0]
    assert (first.stimuli["movie"].frames != other.stimuli["movie"].frames).any()
    assert (first.session_info["truth_center_px"] != other.session_info["truth_center_px"]).all()
    sessions = build_recordings(config | {"sessions": ["a", "b"]})
    assert sessions[0].stimuli["movie"].frames is sessions[1].stimuli["movie"].frames
    assert (sessions[0].session_info["truth_center_px"] != sessions[1].session_info["truth_center_px"]).all()
    assert (sessions[0].responses == first.responses).all()


def test_order_of_keys_changes_nothing():
    config = configuration(presentations__noise_trials=1, presentations__movie_trials=1)
    shuffled = yaml.safe_load(yaml.safe_dump(config, sort_keys=True))
    shuffled["cell_types"] = dict(reversed(shuffled["cell_types"].items()))
    assert (build_recordings(config)[0].responses == build_recordings(shuffled)[0].responses).all()


def test_hydras_containers_read_like_yaml():
    config = configuration(presentations__noise_trials=1, presentations__movie_trials=1)
    composed = OmegaConf.create(config)
    assert (build_recordings(config)[0].responses == build_recordings(composed)[0].responses).all()


def test_test_frames_are_not_training_frames():
    stimuli = build_stimuli(configuration(presentations__movie_trials=20), None)
    seen = {name: {frame.tobytes() for frame in stimulus.frames} for name, stimulus in stimuli.items()}
    assert not seen["test_movie"] & seen["movie"]
    assert not seen["test_noise"] & seen["noise"]


def test_subunit_cells_escape_a_linear_model_and_linear_cells_do_not():
    """The best linear-nonlinear prediction from the true linear filter: exact for LN cells, poor for subunit cells."""
    config = configuration(presentations__repeats=1)
    recording = build_recording(config, "retina_0", None, build_stimuli(config, None))
    movie = recording.stimuli["movie"].frames.reshape(4, 600, -1) / 127.5 - 1
    filters = recording.session_info["truth_filter"].reshape(recording.n_neurons, 12, -1)
    drive = sum(
        np.einsum("kbp,np->kbn", movie[:, 12 - lag : 600 - lag], filters[:, lag], optimize=True) for lag in range(12)
    ).reshape(-1, recording.n_neurons)
    rate = recording.session_info["truth_rate"][rows_of(recording, "movie")].reshape(4, 600, -1)[:, 12:]
    rank = stats.spearmanr(drive, rate.reshape(drive.shape)).statistic.diagonal(recording.n_neurons)
    linear = recording.session_info["truth_model"] == b"LN"
    assert rank[linear].min() > 0.999
    assert rank[~linear].max() < 0.95


def test_kinetics_are_biphasic_and_transient_cells_more_so():
    config = yaml.safe_load(CONFIG.read_text())
    filters = {name: Kinetics(**node).filter(12, 30.0, np.ones(1))[0] for name, node in config["kinetics"].items()}
    for values in filters.values():
        assert np.linalg.norm(values) == pytest.approx(1)
        assert values.max() > 0 > values.min()
    balance = {name: abs(values.sum()) / np.abs(values).sum() for name, values in filters.items()}
    assert balance["transient"] < balance["sustained"]


def test_causal_filter_stops_at_the_start_of_a_presentation():
    signal = np.arange(1.0, 7.0)[:, None] * np.array([[1.0, 2.0]])
    kernel = np.array([[1.0, 10.0], [0.5, 0.0]])
    lead = np.array([0, 1, 2, 0, 1, 2])
    expected = [[1, 1], [12, 2], [23, 3], [4, 4], [45, 5], [56, 6]]
    assert (causal_filter(signal, kernel, lead) == expected).all()


def test_lattice_is_hexagonal():
    points = subunit_lattice(2.0, (20, 20))
    middle = points[np.linalg.norm(points - 10.0, axis=1).argmin()]
    assert np.isclose(np.linalg.norm(points - middle, axis=1), 2.0).sum() == 6


def test_gaze_drifts_within_a_fixation_and_jumps_between():
    photographs = [load_photograph("camera", 128)]
    still = EyeMovements(fixation_s=(1.0, 1.0), drift_px=0.0, microsaccade_hz=0.0, microsaccade_px=0.0)
    movie = fixational_movie(photographs, still, 90, 30.0, (12, 13), 0.4, np.random.default_rng(0))
    changes = (np.diff(movie.astype(int), axis=0) != 0).any((1, 2, 3))
    assert np.flatnonzero(changes).tolist() == [29, 59]
    drifting = EyeMovements(fixation_s=(1.0, 1.0), drift_px=0.3, microsaccade_hz=0.0, microsaccade_px=0.0)
    movie = fixational_movie(photographs, drifting, 90, 30.0, (12, 13), 0.4, np.random.default_rng(0))
    step = np.abs(np.diff(movie.astype(float), axis=0)).mean((1, 2, 3))
    assert (step > 0).all()
    assert step[[29, 59]].min() > 2 * np.median(step)


def test_noise_is_white_and_has_its_contrast():
    noise = white_noise(4000, (6, 6), "binary", 1, 0.5, np.random.default_rng(0)) / 127.5 - 1
    assert noise.std() == pytest.approx(0.5, abs=0.01)
    correlation = np.corrcoef(noise.reshape(4000, -1).T) - np.eye(36)
    assert np.abs(correlation).max() < 0.08
    checks = white_noise(10, (6, 7), "gaussian", 2, 0.3, np.random.default_rng(0))
    assert checks.shape == (10, 1, 6, 7)
    assert (checks[:, :, 0] == checks[:, :, 1]).all()
    with pytest.raises(ValueError, match="'binary' or 'gaussian', found 'pink'"):
        white_noise(10, (6, 7), "pink", 2, 0.3, np.random.default_rng(0))


def test_the_screen_saturates():
    assert quantise(np.array([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"movie__contrats": 1}, r"data_io.movie: unknown keys \['contrats'\]"),
        ({"colour": 1}, r"data_io: unknown keys \['colour'\]; known keys are \['cell_types'"),
        ({"movie__test_photographs": ["astronaut"]}, r"photographs \['astronaut'\] are in both"),
        ({"movie__test_photographs": ["lena"]}, "photograph 'lena' is not in the installed scikit-image"),
        ({"cell_types__on_sustained__kinetics": "fast"}, r"kinetics \['fast'\] unknown"),
        ({"cell_types__on_sustained__polarity": "ON-OFF"}, "an ON-OFF cell needs the subunit model"),
        ({"cell_types__on_off__pool_sigma_px": 0}, "needs pool_sigma_px > 0"),
        ({"cells__margin_px": 6.0}, "leaves no room for cells"),
        ({"sessions": None}, "needs the names of its sessions"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_recordings(configuration(**changes))


def test_unknown_session_is_named():
    config = configuration()
    assert list_sessions(config) == ["retina_0"]
    with pytest.raises(ValueError, match=r"session 'retina_7' is not one of the simulated sessions \['retina_0'\]"):
        build_recording(config, "retina_7", None, {})
