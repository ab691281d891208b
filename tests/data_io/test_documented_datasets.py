"""The documented pairs load_all_stimuli and load_all_responses, on files in the published layout."""

import numpy as np
import pytest

from coread.data_io.base import compute_data_info
from coread.data_io.base_dataloader import multiple_movies_dataloaders
from coread.data_io.goldin_2022.responses import load_all_responses as goldin_responses
from coread.data_io.goldin_2022.stimuli import load_all_stimuli as goldin_stimuli
from coread.data_io.karamanlis_2024.responses import load_all_responses as karamanlis_responses
from coread.data_io.karamanlis_2024.stimuli import load_all_stimuli as karamanlis_stimuli
from coread.data_io.maheswaranathan_2023.responses import load_all_responses as maheswaranathan_responses
from coread.data_io.maheswaranathan_2023.stimuli import load_all_stimuli as maheswaranathan_stimuli
from tests.published_data import goldin_2022, karamanlis_2024, maheswaranathan_2023


def movies_and_responses(seed, n_train, n_test, shape, n_neurons=3, n_repeats=4):
    """Training and test frames, responses (neuron, bin) and repeats (repeat, neuron, bin)."""
    rng = np.random.default_rng(seed)
    train = rng.integers(0, 256, (n_train, *shape), dtype=np.uint8)
    test = rng.integers(0, 256, (n_test, *shape), dtype=np.uint8)
    return train, test, rng.gamma(2.0, 3.0, (n_neurons, n_train)), rng.gamma(2.0, 3.0, (n_repeats, n_neurons, n_test))


def assert_z_scores_of(movies, train, test):
    mean, std = train.mean(), train.std(ddof=1)
    assert movies.norm_mean == pytest.approx(mean)
    assert movies.norm_std == pytest.approx(std)
    np.testing.assert_allclose(movies.train, (train - mean)[None] / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(movies.test_movie, (test - mean)[None] / std, rtol=1e-4, atol=1e-5)


def test_natural_scenes_in_salamander_with_a_surplus_bin(tmp_path):
    train, test, response, repeats = movies_and_responses(0, 240, 35, (6, 7))
    longer = np.concatenate([repeats, repeats[..., :1]], axis=2)
    for session in ("15-10-07", "another"):
        maheswaranathan_2023.write_session(tmp_path, session, train, test, response, longer)
    folder = tmp_path / maheswaranathan_2023.ARCHIVE / "neural_code_data"
    movies = maheswaranathan_stimuli(folder)
    responses = maheswaranathan_responses(str(folder), response_type="firing_rate_10ms", fr_normalization=2.0)
    assert list(movies) == list(responses) == ["15-10-07", "another"]
    assert_z_scores_of(movies["another"], train, test)
    found = responses["another"]
    np.testing.assert_allclose(found.train, response / 2, rtol=1e-6)
    np.testing.assert_allclose(found.test_by_trial, repeats / 2, rtol=1e-6)
    np.testing.assert_allclose(found.test_response, repeats.mean(axis=0) / 2, rtol=1e-6)
    found.check_matching_stimulus(movies["another"])
    loaders = multiple_movies_dataloaders(responses, movies, 20, 4, clip_length=30, num_val_clips=2)
    assert next(iter(loaders["test"]["15-10-07"])).inputs.shape == (1, 1, 35, 6, 7)
    assert compute_data_info(responses, movies)["stim_std"] == movies["15-10-07"].norm_std


@pytest.mark.parametrize("specie", ["mouse", "axolotl"])
def test_flashed_images_of_one_species(tmp_path, specie):
    data = {name: movies_and_responses(seed, 50, 9, (4, 5)) for seed, name in enumerate(("mouse", "axolotl"))}
    for name, (train, test, response, repeats) in data.items():
        goldin_2022.write_session(tmp_path, f"{name}_1", train, test, response, repeats)
    train, test, response, repeats = data[specie]
    folder = tmp_path / goldin_2022.FOLDER
    (movies,) = goldin_stimuli(folder, specie=specie, normalize_stimuli=False).items()
    (responses,) = goldin_responses(folder, specie=specie).values()
    assert movies[0] == f"{specie}_1"
    assert (movies[1].train == train[None]).all()
    assert (movies[1].norm_mean, movies[1].norm_std) == (None, None)
    np.testing.assert_allclose(responses.train, response / 0.3, rtol=1e-6)
    np.testing.assert_allclose(responses.test_by_trial, repeats / 0.3, rtol=1e-6)
    with pytest.raises(ValueError, match=r"specie is one of \['mouse', 'axolotl'\], found 'salamander'"):
        goldin_stimuli(folder, specie="salamander")
    with pytest.raises(ValueError, match="stim_type is 'naturalscene', found 'noise'"):
        goldin_responses(folder, stim_type="noise")


def test_gaze_movies_have_the_size_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (2, 600, 800), dtype=np.uint8)
    gazes = np.stack([np.full(8, 1), np.full(8, 400), np.full(8, 300)], axis=-1)
    gazes[3:, 0] = 2
    counts = {"running": rng.poisson(2.0, (2, 4, 3)), "frozen": rng.poisson(2.0, (5, 8, 3))}
    karamanlis_2024.write_session(
        tmp_path,
        "20220301_60MEA_marmoset_left_s1",
        images={"running": image, "frozen": image},
        fixations={"running": gazes.reshape(2, 4, 3), "frozen": gazes},
        counts=counts,
    )
    folder = tmp_path / karamanlis_2024.SESSIONS
    (movies,) = karamanlis_stimuli(folder, specie="marmoset", downsampled_size=(6, 8), normalize_stimuli=False).values()
    (responses,) = karamanlis_responses(folder, specie="marmoset").values()
    assert movies.train.shape == movies.test_movie.shape == (1, 8, 6, 8)
    # gaze at the centre: the frame is the image, of which antialiased reduction keeps the local averages
    blocks = image.reshape(2, 6, 100, 8, 100).mean(axis=(2, 4))
    np.testing.assert_allclose(movies.train[0], blocks[gazes[:, 0] - 1], atol=2.0)
    assert (responses.train == counts["running"].transpose(2, 0, 1).reshape(3, 8)).all()
    assert (responses.test_by_trial == counts["frozen"].transpose(0, 2, 1)).all()
    with pytest.raises(ValueError, match="gratingflicker"):
        karamanlis_stimuli(folder, specie="marmoset", stim_type="gratingflicker")
