import numpy as np
import pytest

from coread.eval.oracles import fraction_of_oracle, global_mean_oracle, oracle_corr_jackknife


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


def test_fraction_of_oracle_is_the_slope_through_the_origin():
    rng = np.random.default_rng(4)
    oracle = rng.uniform(-0.02, 0.6, 200)
    score = 0.7 * oracle + rng.normal(0, 0.02, 200)
    slope = np.linalg.lstsq(oracle[:, None], score, rcond=None)[0][0]
    assert fraction_of_oracle(score, oracle) == pytest.approx(slope)
    gaps = score.copy()
    gaps[:3] = np.nan
    assert fraction_of_oracle(gaps, oracle) == pytest.approx(fraction_of_oracle(score[3:], oracle[3:]))
    assert np.isnan(fraction_of_oracle(gaps[:3], oracle[:3]))
    # an unreliable neuron decides nothing, whatever the ratio of its two correlations
    oracle[0], score[0] = 1e-6, 0.1
    assert abs(fraction_of_oracle(score, oracle) - slope) < 1e-3
