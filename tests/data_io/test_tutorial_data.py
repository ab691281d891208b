"""The documented tutorial data."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from coread.data_io.sources import build_recordings
from coread.data_io.tutorial_data import TutorialNeurons, causal_ceiling, create_data

CONFIG = Path(__file__).parents[2] / "configs" / "data_io" / "hdf5_directory.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tutorial") / "new" / "folder"
    create_data(path, clip_length=20)
    return path


def test_documented_layout(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))
    assert files == ["session_0.hdf5", "session_1.hdf5", *(f"stimuli/random_noise_{i}.npy" for i in range(4))]
    for index in range(4):
        movie = np.load(folder / "stimuli" / f"random_noise_{index}.npy")
        assert movie.shape == (3, (70 + index) * 20, 16, 8)
        assert abs(movie.mean()) < 0.01
        assert movie.std() == pytest.approx(1, abs=0.01)
    with h5py.File(folder / "session_0.hdf5", "r") as file:
        n_neurons = len(file["session_info/scale"])
        assert 10 <= n_neurons <= 29
        for index in range(4):
            assert file[f"responses_random_noise_{index}"].shape == (n_neurons, (70 + index) * 20)


def test_shipped_configuration_reads_it(folder):
    recordings = build_recordings(yaml.safe_load(CONFIG.read_text()), folder)
    assert [recording.session for recording in recordings] == ["session_0", "session_1"]
    for recording in recordings:
        tiers = dict(zip(recording.trials["stimulus"], recording.trials["tier"], strict=True))
        assert tiers == {f"random_noise_{i}": "test" if i > 1 else "train" for i in range(4)}


def test_responses_are_the_published_centred_boxcar(folder):
    """Compared neuron by neuron with numpy's convolution in mode "same", which defines the published data."""
    movie = np.load(folder / "stimuli" / "random_noise_1.npy").astype(float)
    with h5py.File(folder / "session_1.hdf5", "r") as file:
        truth = {key: values[()] for key, values in file["session_info"].items()}
        responses = file["responses_random_noise_1"][()]
    assert set(truth["boxcar_bins"]) <= {3, 4, 5, 6}
    assert set(truth["square_size_px"]) <= {2, 3, 4, 5}
    assert truth["scale"].min() >= 0.5 > truth["scale"].min() - 1
    for neuron, width in enumerate(truth["boxcar_bins"]):
        top, left, size = (int(truth[f"square_{key}_px"][neuron]) for key in ("top", "left", "size"))
        assert top + size <= 16
        assert left + size <= 8
        trace = movie[truth["color_channel"][neuron], :, top : top + size, left : left + size].sum((1, 2))
        expected = np.convolve(trace, np.ones(width) / width, mode="same")
        expected = truth["scale"][neuron] * expected + truth["bias"][neuron]
        np.testing.assert_allclose(responses[neuron], expected, atol=1e-4)


def test_seed_decides_the_draw(folder, tmp_path):
    create_data(tmp_path / "same", clip_length=20)
    create_data(tmp_path / "other", clip_length=20, seed=1)
    first, same, other = (
        np.load(path / "stimuli" / "random_noise_3.npy") for path in (folder, tmp_path / "same", tmp_path / "other")
    )
    assert (first == same).all()
    assert (first != other).any()
    with h5py.File(folder / "session_1.hdf5") as one, h5py.File(tmp_path / "same" / "session_1.hdf5") as two:
        assert (one["responses_random_noise_0"][()] == two["responses_random_noise_0"][()]).all()


def test_counts_are_options_and_checked(tmp_path):
    create_data(tmp_path, num_colors=1, num_stimuli=2, num_sessions=3, clip_length=2, seed=5)
    assert np.load(tmp_path / "stimuli" / "random_noise_1.npy").shape == (1, 142, 16, 8)
    assert len(list(tmp_path.glob("session_*.hdf5"))) == 3
    with pytest.raises(ValueError, match="num_sessions must be at least 1, found 0"):
        create_data(tmp_path, num_sessions=0)


def test_causal_ceiling_is_what_the_future_leaves(folder):
    """Of a width-k boxcar with f future frames, (k - f) / k of the variance can be predicted."""
    with h5py.File(folder / "session_0.hdf5", "r") as file:
        width = file["session_info/boxcar_bins"][()]
    expected = np.sqrt(1 - ((width - 1) // 2) / width)
    ceiling = causal_ceiling(folder)
    assert set(ceiling) == {"session_0", "session_1"}
    np.testing.assert_allclose(ceiling["session_0"], expected, atol=0.04)
    assert np.concatenate(list(ceiling.values())).mean() == pytest.approx(0.82, abs=0.02)


def test_ceiling_needs_stimuli_to_fit_and_to_test(folder):
    with pytest.raises(ValueError, match="need stimuli to fit and to test on"):
        causal_ceiling(folder, test_names=["chirp"])


def test_square_sums_sum_one_colour_over_one_square():
    neurons = TutorialNeurons(*(np.array([value]) for value in (3, 2, 2, 1, 3)), np.ones(1), np.zeros(1))
    movie = np.zeros((2, 5, 16, 8))
    movie[1, 2, 3:5, 2:4] = 1.0
    movie[0] = 7.0
    assert neurons.square_sums(movie)[:, 0].tolist() == [0, 0, 4, 0, 0]
    np.testing.assert_allclose(neurons.responses(movie)[0], [0, 4 / 3, 4 / 3, 4 / 3, 0])
