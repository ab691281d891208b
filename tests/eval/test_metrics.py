import doctest
import warnings

import numpy as np
import pytest

from coread.eval import metrics, oracles
from coread.eval.metrics import (
    bootstrap_mean_ci,
    bootstrap_repeats,
    correlation_numpy,
    correlation_to_average,
    explainable_vs_total_var,
    feve,
    noise_ceiling,
    normalized_correlation,
    poisson_loss_numpy,
    signal_power,
    single_trial_correlation,
)

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def recording() -> Arrays:
    """Noisy repeats (bin, repeat, neuron) and the noise-free signal (bin, neuron)."""
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(300, 1, 5)) * np.array([0.5, 1, 1, 2, 3])
    return signal + rng.normal(size=(300, 8, 5)), signal[:, 0]


def with_gaps(responses: np.ndarray) -> np.ndarray:
    """Repeat 7 is absent after bin 100, repeat 2 misses some bins, bin 5 has one repeat only."""
    gappy = responses.copy()
    gappy[100:, 7] = np.nan
    gappy[20:40, 2] = np.nan
    gappy[5, 1:] = np.nan
    return gappy


@pytest.mark.parametrize("module", [metrics, oracles])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0


def test_correlation_equals_numpy_per_neuron(recording: Arrays):
    responses, signal = recording
    expected = [np.corrcoef(responses[:, 0, i], signal[:, i])[0, 1] for i in range(5)]
    np.testing.assert_allclose(correlation_numpy(responses[:, 0], signal, axis=0), expected, rtol=1e-6)


def test_average_and_single_trial_correlations_with_gaps(recording: Arrays):
    responses, signal = recording
    responses = with_gaps(responses)
    for i in range(5):
        average = np.nanmean(responses[..., i], axis=1)
        assert correlation_to_average(responses, signal)[i] == pytest.approx(np.corrcoef(average, signal[:, i])[0, 1])
        bins, _ = there = np.nonzero(np.isfinite(responses[..., i]))
        trials = np.corrcoef(responses[..., i][there], signal[bins, i])[0, 1]
        assert single_trial_correlation(responses, signal)[i] == pytest.approx(trials)


def test_bins_without_prediction_do_not_enter(recording: Arrays):
    responses, signal = recording
    late = signal.copy()
    late[:10] = np.nan
    for score in (correlation_to_average, single_trial_correlation, feve, normalized_correlation):
        np.testing.assert_allclose(score(responses, late), score(responses[10:], signal[10:]))


def test_signal_power_is_the_published_formula_without_gaps(recording: Arrays):
    responses, _ = recording
    n = responses.shape[1]
    sum_of_variances = responses.var(axis=0, ddof=1).sum(axis=0)
    published = (responses.sum(axis=1).var(axis=0, ddof=1) - sum_of_variances) / (n * (n - 1))
    np.testing.assert_allclose(signal_power(responses), published)


def test_normalized_correlation_is_correlation_in_units_of_the_ceiling(recording: Arrays):
    responses, signal = recording
    average, power = responses.mean(axis=1), signal_power(responses)
    covariance = [np.cov(signal[:, i], average[:, i])[0, 1] for i in range(5)]
    expected = covariance / np.sqrt(signal.var(axis=0, ddof=1) * power)
    np.testing.assert_allclose(normalized_correlation(responses, signal), expected)


def test_a_perfect_model_reaches_every_ceiling_with_gaps(recording: Arrays):
    responses, signal = recording
    responses = with_gaps(responses)
    np.testing.assert_allclose(normalized_correlation(responses, signal), 1, atol=0.06)
    np.testing.assert_allclose(feve(responses, signal), 1, atol=0.1)
    np.testing.assert_allclose(correlation_to_average(responses, signal), noise_ceiling(responses), atol=0.06)


def counts_with_fewer_repeats(design: str) -> Arrays:
    """Poisson counts of 60 neurons, and their rates, whose number of repeats goes with the rate."""
    rng = np.random.default_rng(8)
    rate = rng.gamma(2, 1, size=(600, 60)) * np.where(np.arange(600) < 300, 0.3, 2)[:, None]
    responses = rng.poisson(rate[:, None], size=(600, 10, 60)).astype(float)
    first = (np.arange(600) < 300)[:, None]
    high = rate > np.median(rate, axis=0)
    fewer = {"stopped in the second half": ~first, "high rates": high, "low rates": ~high}[design]
    responses[:, 3:][np.broadcast_to(fewer[:, None], (600, 7, 60))] = np.nan
    return responses, rate


@pytest.mark.parametrize("design", ["stopped in the second half", "high rates", "low rates"])
def test_a_perfect_model_is_perfect_whatever_rates_the_missing_repeats_have(design: str):
    responses, rate = counts_with_fewer_repeats(design)
    power = rate.var(axis=0, ddof=1)
    n = np.isfinite(responses).sum(axis=1)
    assert signal_power(responses).mean() == pytest.approx(power.mean(), rel=0.03)
    assert normalized_correlation(responses, rate).mean() == pytest.approx(1, abs=0.01)
    assert feve(responses, rate).mean() == pytest.approx(1, abs=0.03)
    ceiling = np.sqrt(power / (power + (rate / n).mean(axis=0)))
    np.testing.assert_allclose(noise_ceiling(responses), ceiling, atol=0.04)
    assert noise_ceiling(responses).mean() == pytest.approx(ceiling.mean(), abs=0.01)


def test_offsets_of_repeats_are_no_noise(recording: Arrays):
    responses, _ = recording
    drifting = responses + np.linspace(-3, 3, 8)[:, None]
    np.testing.assert_allclose(noise_ceiling(drifting), noise_ceiling(responses))


def test_bins_with_one_repeat_change_no_score_in_units_of_the_noise(recording: Arrays):
    responses, signal = recording
    longer = np.concatenate([responses, np.full_like(responses, np.nan)])
    longer[300:, 0] = np.random.default_rng(2).normal(0, 9, size=(300, 5))
    for score in (normalized_correlation, feve):
        np.testing.assert_allclose(score(longer, np.tile(signal, (2, 1))), score(responses, signal))
    for of_data in (signal_power, noise_ceiling, lambda values: explainable_vs_total_var(values)[0]):
        np.testing.assert_allclose(of_data(longer), of_data(responses))


def test_absent_repeat_equals_shorter_array(recording: Arrays):
    responses, signal = recording
    padded = responses.copy()
    padded[:, 5:] = np.nan
    for score in (correlation_to_average, single_trial_correlation, feve, normalized_correlation):
        np.testing.assert_allclose(score(padded, signal), score(responses[:, :5], signal))
    np.testing.assert_allclose(noise_ceiling(padded), noise_ceiling(responses[:, :5]))
    np.testing.assert_allclose(explainable_vs_total_var(padded)[0], explainable_vs_total_var(responses[:, :5])[0])


def test_feve_is_unclipped_by_default(recording: Arrays):
    responses, signal = recording
    wrong = -signal
    assert (feve(responses, wrong) < -1).all()
    assert (feve(responses, wrong, clip=True) == 0).all()


def test_undefined_scores_are_nan_without_warnings():
    rng = np.random.default_rng(0)
    responses = rng.normal(size=(50, 4, 3))
    responses[..., 0] = 0.3
    responses[..., 1] = np.nan
    signal = rng.normal(size=(50, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for score in (correlation_to_average, single_trial_correlation, feve, normalized_correlation):
            values = score(responses, signal)
            assert np.isnan(values[:2]).all(), score.__name__
        assert np.isnan(noise_ceiling(responses[:, :1])).all()
        assert np.isnan(explainable_vs_total_var(responses[:, :1])[0]).all()
        bootstrap_repeats(responses, signal, 20, rng)
        bootstrap_repeats(responses[:, :1], signal, 20, rng)


def test_a_constant_prediction_scores_zero(recording: Arrays):
    responses, signal = recording
    constant = np.full_like(signal, 0.1)
    assert (correlation_to_average(responses, constant) == 0).all()
    assert (single_trial_correlation(responses, constant) == 0).all()


def test_no_signal_means_no_ceiling_on_average():
    responses = np.random.default_rng(3).normal(size=(100, 10, 400))
    power = signal_power(responses)
    assert abs(power.mean()) < 3 * power.std() / np.sqrt(400)
    assert np.isnan(noise_ceiling(responses)).mean() == pytest.approx(np.mean(power <= 0))


def test_poisson_loss_leaves_out_nan():
    y, rate = np.array([[1.0, np.nan], [0.0, 2.0]]), np.array([[0.5, 1.0], [1.5, 4.0]])
    expected = [(0.5 - np.log(0.5) + 1.5) / 2, 4 - 2 * np.log(4)]
    np.testing.assert_allclose(poisson_loss_numpy(y, rate, mean_axis=0), expected, rtol=1e-6)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(bin, repeat, neuron\).*\(4, 2\)"):
        noise_ceiling(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2, 3\).*\(5, 1, 3\)"):
        feve(np.zeros((4, 2, 3)), np.zeros((5, 3)))


def test_interval_of_the_mean_covers_it_about_as_often_as_promised():
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(200):
        low, high = bootstrap_mean_ci(rng.normal(2, 1, size=40), 300, rng, level=0.9)
        covered.append(low < 2 < high)
    assert 0.82 < np.mean(covered) < 0.96
    assert np.isnan(bootstrap_mean_ci(np.array([1.0, np.nan]), 10, rng)).all()


@pytest.mark.parametrize(("n_repeats", "noise"), [(12, 1.5), (6, 2.5)])
def test_intervals_over_repeats_cover_the_truth(n_repeats: int, noise: float):
    rng = np.random.default_rng(6)
    signal = rng.normal(size=(150, 1, 150))
    responses = signal + noise * rng.normal(size=(150, n_repeats, 150))
    power = signal[:, 0].var(axis=0, ddof=1)
    truth = {
        "feve": np.ones(150),
        "normalized_correlation": np.ones(150),
        "noise_ceiling": np.sqrt(power / (power + noise**2 / n_repeats)),
        "explainable_variance": power / (power + noise**2),
    }
    intervals = bootstrap_repeats(responses, signal[:, 0], 200, rng, level=0.9)
    for name, values in truth.items():
        low, high = intervals[name]
        assert ((low < values) & (high > values)).mean() > 0.85, name
    # neither so wide that they say nothing
    low, high = intervals["explainable_variance"]
    assert (high - low).mean() < 0.15


def test_intervals_do_not_depend_on_the_chunk_size(recording: Arrays, monkeypatch: pytest.MonkeyPatch):
    responses, signal = recording
    responses = with_gaps(responses)
    whole = bootstrap_repeats(responses, signal, 30, np.random.default_rng(0))
    monkeypatch.setattr(metrics, "MAX_ELEMENTS", 4000)
    chunked = bootstrap_repeats(responses, signal, 30, np.random.default_rng(0))
    for name in whole:
        np.testing.assert_allclose(whole[name], chunked[name])


@pytest.mark.parametrize("design", ["no gaps", "gaps", "gaps of one neuron", "high rates"])
def test_resampling_every_repeat_once_gives_the_scores(recording: Arrays, design: str):
    responses, prediction = recording
    prediction = prediction + np.random.default_rng(1).normal(size=prediction.shape)
    if design == "high rates":
        responses, prediction = counts_with_fewer_repeats(design)
    elif design == "gaps":
        responses = with_gaps(responses)
    elif design == "gaps of one neuron":
        responses = responses.copy()
        responses[..., 2] = with_gaps(responses)[..., 2]
    found = metrics._resampled_scores(responses, prediction, np.ones((1, responses.shape[1])))
    expected = {
        "correlation_to_average": correlation_to_average(responses, prediction),
        "normalized_correlation": normalized_correlation(responses, prediction),
        "noise_ceiling": noise_ceiling(responses),
        "feve": feve(responses, prediction),
        "explainable_variance": explainable_vs_total_var(responses)[0],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][0], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "kind",
    ["rates", "few spikes", "predictions of every repeat", "constant prediction", "weak prediction far off", "far off"],
)
def test_resamples_without_gaps_are_those_of_the_general_way(kind: str):
    rng = np.random.default_rng(4)
    rate = np.exp(rng.normal(size=(60, 1, 6)))
    responses = rng.poisson(0.02 * rate if kind == "few spikes" else rate, (60, 7, 6)).astype(float)
    prediction = rate[:, 0] + rng.normal(size=(60, 6))
    if kind == "predictions of every repeat":
        prediction = prediction[:, None] + 0.3 * rng.normal(size=responses.shape)
    elif kind == "constant prediction":
        prediction = np.full_like(prediction, 0.3)
    elif kind == "weak prediction far off":
        prediction = 5 + 1e-5 * prediction
    elif kind == "far off":
        responses, prediction = responses + 1e5, prediction + 1e5
    weights = rng.multinomial(7, np.full(7, 1 / 7), size=200).astype(float)
    weights[0] = 7 * np.eye(7)[2]  # one repeat alone, which tells nothing of noise
    found = metrics._resampled_scores(responses, prediction, weights)
    # a neuron with a gap of its own sends all through the general way, the others without gaps
    gap = np.where(np.arange(60)[:, None, None] < 5, np.nan, responses[..., :1])
    more = [np.concatenate([values, values[..., :1]], axis=-1) for values in (responses, prediction)]
    more[0][..., -1:] = gap
    expected = metrics._resampled_scores(*more, weights)
    for name, values in found.items():
        assert np.isfinite(values).mean() > 0.2, name
        np.testing.assert_allclose(values, expected[name][:, :-1], rtol=1e-8, atol=1e-9, err_msg=name)


def test_intervals_hold_a_perfect_model_where_the_stronger_half_has_fewer_repeats():
    responses, rate = counts_with_fewer_repeats("stopped in the second half")
    intervals = bootstrap_repeats(responses, rate, 200, np.random.default_rng(0))
    for name in ("normalized_correlation", "feve"):
        low, high = intervals[name]
        assert ((low < 1) & (high > 1)).mean() > 0.75, name
        assert (high - low).mean() < 0.5, name
