"""White noise from its seed: the lab's own numbers, planted cells, a real recording, damage."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from coread.data_io.readers.gollisch_white_noise import Noise, regenerate
from coread.data_io.sources import build_recording, build_recordings, build_stimuli, list_sessions, source_files
from coread.data_io.sta import compute_sta
from coread.extras import MissingExtraError
from coread.recording import RecordingError

pytest.importorskip("retinawhitenoise", reason="the extra `whitenoise` is not installed")

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data_io" / "gollisch_white_noise.yaml").read_text())
NX, NY = 13, 9
CELLS = ((0, 0, 0), (8, 12, 2), (3, 7, 1))  # y, x, lag


def screen(seed: int, n_frames: int, distribution: str = "binary") -> np.ndarray:
    """Return frames (frame, y, x) as the lab's package gives them, by a way of its own."""
    from retinawhitenoise import binarystimulus, gaussianstimulus

    package = binarystimulus if distribution == "binary" else gaussianstimulus
    (movie,) = package.recreate(seed, (NX, NY), n_frames)
    return movie.transpose(2, 1, 0)


def planted(frames: np.ndarray) -> np.ndarray:
    """Return responses (neuron, bin) of cells that copy one pixel."""
    responses = np.zeros((len(CELLS), len(frames)))
    for row, (y, x, lag) in enumerate(CELLS):
        responses[row, lag:] = frames[: len(frames) - lag, y, x] + 1
    return responses


def write_session(
    path, *, n_trials=6, n_running=90, n_frozen=20, bins_per_frame=1, distribution="binary", **attributes
):
    running = screen(-10000, n_trials * n_running, distribution).reshape(n_trials, n_running, NY, NX)
    frozen = screen(-20000, n_frozen, distribution)
    with h5py.File(path, "w") as file:
        trials = [planted(np.repeat(frames, bins_per_frame, axis=0)) for frames in running]
        file["running_counts"] = np.stack(trials, axis=1)
        one = planted(np.repeat(frozen, bins_per_frame, axis=0))
        file["frozen_counts"] = np.stack([one + trial for trial in range(n_trials)], axis=1)
        file["unit_id"] = np.array([40, 27, 66])
        file["session_info/eye"] = "left"
        file.attrs.update({"nx": NX, "ny": NY, **attributes})
    return running.reshape(-1, NY, NX), frozen


@pytest.mark.parametrize(("distribution", "bins_per_frame"), [("binary", 1), ("gaussian", 1), ("binary", 2)])
def test_planted_cells_are_recovered(tmp_path, distribution, bins_per_frame):
    running, frozen = write_session(tmp_path / "a.h5", distribution=distribution, bins_per_frame=bins_per_frame)
    config = CONFIG | {"distribution": distribution, "bins_per_frame": bins_per_frame}
    (recording,) = build_recordings(config, tmp_path)
    train = recording.bin_column("tier") == "train"
    for average, cell in zip(np.abs(compute_sta(recording, train, 4)[:, :, 0]), CELLS, strict=True):
        y, x, lag = cell
        assert np.unravel_index(average.argmax(), average.shape) == (lag, y, x)
    for tier, published in (("train", running), ("test", frozen)):
        bins = recording.bin_column("tier") == tier
        name = recording.bin_column("stimulus")[bins][0]
        assert (recording.stimuli[name].frames[: len(published), 0] == published).all()
        shown = recording.frame[bins].reshape(-1, bins_per_frame)
        assert (shown == shown[:, :1]).all()
    assert recording.stimuli[name].frame_rate_hz == CONFIG["rate_hz"] / bins_per_frame
    assert recording.neurons["unit_id"].tolist() == ["40", "27", "66"]
    assert recording.session_info["eye"] == "left"


def test_running_noise_goes_on_and_frozen_noise_starts_again(tmp_path):
    write_session(tmp_path / "a.h5")
    (recording,) = build_recordings(CONFIG, tmp_path)
    first, past = recording.trial_bounds()
    assert recording.frame[first].tolist() == [0, 90, 180, 270, 360, 450] + [0] * 6
    assert (past - first).tolist() == [90] * 6 + [20] * 6
    assert recording.trials["tier"].tolist() == ["train"] * 6 + ["test"] * 6
    assert recording.trials["repeat"].tolist() == [0] * 6 + list(range(6))
    assert recording.trials["time_order"].tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]


def test_sessions_share_the_longest_sequence_and_differ_where_their_files_say_so(tmp_path):
    write_session(tmp_path / "a.h5", n_trials=2)
    write_session(tmp_path / "b.h5", n_trials=5)
    write_session(tmp_path / "c.h5", contrast=0.3)
    config = CONFIG | {"contrast": None}
    assert list_sessions(config, tmp_path) == ["a", "b", "c"]
    first, second, third = build_recordings(config, tmp_path)
    assert set(first.stimuli) == {"running_binary_13x9_seed-10000", "frozen_binary_13x9_seed-20000"}
    for name in first.stimuli:
        assert first.stimuli[name].frames is second.stimuli[name].frames
    assert first.stimuli["running_binary_13x9_seed-10000"].frames.shape == (450, 1, NY, NX)
    assert {stimulus.scale for stimulus in third.stimuli.values()} == {0.3}
    assert len(source_files(config, None, tmp_path)) == 3


def test_the_same_frames_shown_for_other_times_are_other_stimuli(tmp_path):
    write_session(tmp_path / "a.h5", bins_per_frame=1)
    write_session(tmp_path / "b.h5", bins_per_frame=2)
    for name, n_bins in (("a", 1), ("b", 2)):
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            file.attrs["bins_per_frame"] = n_bins
    config = CONFIG | {"bins_per_frame": None}
    once, twice = build_recordings(config, tmp_path)
    assert set(once.stimuli) == {"running_binary_13x9_seed-10000", "frozen_binary_13x9_seed-20000"}
    assert set(twice.stimuli) == {f"{name}_2bins" for name in once.stimuli}
    for name, stimulus in once.stimuli.items():
        assert stimulus.frame_rate_hz == CONFIG["rate_hz"]
        assert twice.stimuli[f"{name}_2bins"].frame_rate_hz == CONFIG["rate_hz"] / 2
    stimuli = build_stimuli(config, tmp_path)
    for name in once.stimuli:
        assert stimuli[f"{name}_2bins"].frames is stimuli[name].frames  # drawn and kept once


def test_a_crop_is_cut_from_the_whole_screen():
    whole = regenerate(Noise("running", -77, NX, NY, "binary", 1.0, (0, NX, 0, NY)), 30)
    part = regenerate(Noise("running", -77, NX, NY, "binary", 1.0, (2, 6, 1, 9)), 30)
    assert whole.dtype == np.int8
    assert set(np.unique(whole)) == {-1, 1}
    assert (part == whole[:, :, 1:9, 2:6]).all()


def test_chunks_draw_the_same_numbers(monkeypatch):
    noise = [Noise("running", -5, NX, NY, kind, 1.0, (0, NX, 0, NY)) for kind in ("binary", "gaussian")]
    whole = [regenerate(one, 25) for one in noise]
    monkeypatch.setattr("coread.data_io.readers.gollisch_white_noise.CHUNK_VALUES", 7 * NX * NY)
    for one, expected in zip(noise, whole, strict=True):
        assert (regenerate(one, 25) == expected).all()


# ----------------------------------------------------------------------------------------------------- a real recording


def liu_session(reference_data: Path, folder: Path, n_trials: int) -> dict[str, np.ndarray]:
    """Write the Liu et al. (2017) responses in this layout; return the frames that were stored with them."""
    path = reference_data / "data" / "liu2017" / "example_12cells.npz"
    if not path.is_file():
        pytest.skip(f"reference recording not found: {path}")
    with np.load(path) as data:
        settings = json.loads(str(data["meta"]))
        width, height = (int(size) for size in data["stim_shape_xy"])
        with h5py.File(folder / "liu.h5", "w") as file:
            file["running_counts"] = data["running_counts"][:, :n_trials]
            file["frozen_counts"] = data["frozen_counts"][:, :5]
            file["unit_id"] = data["cell_ids"]
            file.attrs["crop_px"] = data["box_x0x1y0y1"]
            file.attrs.update({key: settings[key] for key in ("running_seed", "frozen_seed", "nx", "ny")})
        stored = {}
        for kind in ("running", "frozen"):
            bits = data[f"{kind}_stim_bits"][:n_trials] if kind == "running" else data[f"{kind}_stim_bits"]
            frames = np.unpackbits(bits, axis=-1)[..., : width * height].reshape(-1, width, height)
            stored[kind] = frames.transpose(0, 2, 1).astype(np.int8) * 2 - 1
        return stored | {"rf_x": data["rf_x"], "rf_y": data["rf_y"]}


def test_regenerated_frames_are_those_of_a_real_recording(reference_data, tmp_path):
    stored = liu_session(reference_data, tmp_path, n_trials=2)
    stimuli = build_stimuli(CONFIG, tmp_path)
    for kind in ("running", "frozen"):
        (name,) = (name for name in stimuli if name.startswith(kind))
        assert (stimuli[name].frames[:, 0] == stored[kind]).all()


@pytest.mark.acceptance
def test_all_frames_and_receptive_fields_of_a_real_recording(reference_data, tmp_path):
    stored = liu_session(reference_data, tmp_path, n_trials=24)
    stimuli = build_stimuli(CONFIG, tmp_path)
    (name,) = (name for name in stimuli if name.startswith("running"))
    assert (stimuli[name].frames[:, 0] == stored["running"]).all()
    recording = build_recording(CONFIG, "liu", tmp_path, stimuli)
    average = compute_sta(recording, recording.bin_column("tier") == "train", 20)[:, :, 0]
    strength = average.var(axis=1)
    y, x = np.divmod(strength.reshape(12, -1).argmax(axis=1), strength.shape[2])
    # the centres stored with the recording come from another estimate; a swapped or mirrored axis would not correlate
    assert np.corrcoef(x, stored["rf_x"])[0, 1] > 0.9
    assert np.corrcoef(y, stored["rf_y"])[0, 1] > 0.9


# -------------------------------------------------------------------------------------------------------------- errors


def change(path, **changes):
    with h5py.File(path, "a") as file:
        for key, value in changes.items():
            if key in file:
                del file[key]
            if isinstance(value, np.ndarray):
                file[key] = value
            elif value is not None:
                file.attrs[key] = value
            elif key in file.attrs:
                del file.attrs[key]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"running_counts": None},
            r"a\.h5: no dataset running_counts, found \['frozen_counts', 'session_info', 'unit_id'\]",
        ),
        (
            {"running_counts": np.ones((3, 40))},
            r"running_counts must be numbers \(neuron, trial, bin\), found .* \(3, 40\)",
        ),
        ({"frozen_counts": np.ones((2, 4, 5))}, "running_counts has 3 neurons, frozen_counts 2"),
        ({"nx": None}, r"a\.h5: running_counts needs nx, which neither the file's attributes nor data_io say"),
        ({"distribution": "gaussian"}, r"a\.h5: the file says distribution is gaussian, data_io says binary"),
        ({"seed": 4}, r"a\.h5: unknown attributes \['seed'\]; known are \['bins_per_frame', 'contrast', 'crop_px'"),
        ({"crop_px": [0, 14, 0, 9]}, r"crop_px \[0, 14, 0, 9\] \(x0, x1, y0, y1\) does not lie inside 13 x 9 pixels"),
        ({"unit_id": np.arange(4)}, r"a\.h5: unit_id has shape \(4,\), there are 3 neurons"),
    ],
)
def test_wrong_files_are_named(tmp_path, changes, message):
    write_session(tmp_path / "a.h5", n_trials=2)
    change(tmp_path / "a.h5", **changes)
    with pytest.raises(RecordingError, match=message):
        build_recordings(CONFIG, tmp_path)


def test_damage_and_wrong_settings_are_named(tmp_path):
    write_session(tmp_path / "a.h5", n_trials=2)
    with pytest.raises(RecordingError, match="running_counts has 90 bins per trial, no multiple of bins_per_frame 4"):
        build_recordings(CONFIG | {"bins_per_frame": 4}, tmp_path)
    with pytest.raises(RecordingError, match=r"distribution is one of \['binary', 'gaussian'\], found 'ternary'"):
        build_recordings(CONFIG | {"distribution": "ternary"}, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"session 'b' needs b\.h5; found \['a\.h5'\]"):
        build_recordings(CONFIG | {"sessions": ["b"]}, tmp_path)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"a\.h5: not a readable HDF5 file, truncated or damaged"):
        build_recordings(CONFIG, tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    write_session(tmp_path / "a.h5", n_trials=2)
    monkeypatch.setitem(sys.modules, "retinawhitenoise", None)
    with pytest.raises(MissingExtraError, match=r"retinawhitenoise: pip install 'coread\[whitenoise\]'"):
        build_stimuli(CONFIG, tmp_path)
