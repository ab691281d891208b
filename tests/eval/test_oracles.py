import numpy as np
import pytest

from coread.eval.oracles import global_mean_oracle, oracle_corr_jackknife


@pytest.fixture
def responses() -> np.ndarray:
    rng = np.random.default_rng(2)
    return rng.normal(size=(60, 1, 4)) + rng.normal(size=(60, 6, 4))


def test_jackknife_equals_the_mean_of_the_others(responses: np.ndarray):
    score, oracle = oracle_corr_jackknife(responses)
    for repeat in range(6):
        np.testing.assert_allclose(oracle[:, repeat], np.delete(responses, repeat, axis=1).mean(axis=1))
    expected = [np.corrcoef(responses[..., i].ravel(), oracle[..., i].ravel())[0, 1] for i in range(4)]
    np.testing.assert_allclose(score, expected, rtol=1e-6)


def test_jackknife_ignores_absent_repeats_and_first_bins(responses: np.ndarray):
    padded = np.concatenate([np.full((7, 6, 4), 100.0), responses])
    padded = np.concatenate([padded, np.full((67, 2, 4), np.nan)], axis=1)
    score, oracle = oracle_corr_jackknife(padded, cut_first_n_frames=7)
    np.testing.assert_allclose(score, oracle_corr_jackknife(responses)[0])
    assert oracle.shape == (60, 8, 4)


def test_single_repeat_has_no_oracle(responses: np.ndarray):
    score, oracle = oracle_corr_jackknife(responses[:, :1])
    assert np.isnan(score).all()
    assert np.isnan(oracle).all()


def test_global_mean_leaves_the_neuron_out(responses: np.ndarray):
    score = global_mean_oracle(responses)
    others = np.delete(responses, 1, axis=2).mean(axis=2)
    assert score[1] == pytest.approx(np.corrcoef(responses[..., 1].ravel(), others.ravel())[0, 1])
    published = global_mean_oracle(responses, published_behaviour=True)
    assert published[1] == pytest.approx(np.corrcoef(responses[..., 1].ravel(), responses.mean(axis=2).ravel())[0, 1])
    assert (published > score).all()
    np.testing.assert_allclose(global_mean_oracle(responses, cut_first_n_frames=9), global_mean_oracle(responses[9:]))
