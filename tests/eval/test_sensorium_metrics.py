"""The published formulas, bit for bit, and where they differ from ours."""

import numpy as np
import pytest
from tests.static_images import EVALUATION, make_predictions, make_recording

from coread.eval.metrics import (
    bootstrap_repeats,
    correlation_to_average,
    explainable_vs_total_var,
    feve,
    single_trial_correlation,
)
from coread.eval.scores import score_experiment
from coread.eval.sensorium_intervals import published_intervals, where_formulas_agree
from coread.eval.sensorium_metrics import (
    published_correlation,
    published_correlation_to_average,
    published_explainable_variance,
    published_feve,
    published_single_trial_correlation,
)
from coread.eval.tables import summarize

N_IMAGES, N_REPEATS, N_NEURONS = 20, 6, 5


@pytest.fixture
def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    signal = rng.gamma(2.0, 1.0, (N_IMAGES, 1, N_NEURONS))
    responses = signal + rng.normal(0, 0.7, (N_IMAGES, N_REPEATS, N_NEURONS))
    return responses, signal + rng.normal(0, 0.3, responses.shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_correlation_is_the_published_one_to_the_bit(example: tuple, dtype: type) -> None:
    y1, y2 = (values.reshape(-1, N_NEURONS).astype(dtype) for values in example)
    z1 = (y1 - y1.mean(axis=0, keepdims=True)) / (y1.std(axis=0, keepdims=True, ddof=0) + 1e-8)
    z2 = (y2 - y2.mean(axis=0, keepdims=True)) / (y2.std(axis=0, keepdims=True, ddof=0) + 1e-8)
    found = published_correlation(y1, y2, axis=0)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, (z1 * z2).mean(axis=0))
    np.testing.assert_array_equal(published_single_trial_correlation(*(v.astype(dtype) for v in example)), found)


def test_eps_matters_where_a_neuron_hardly_varies() -> None:
    signal = np.linspace(0, 1e-8, 50)[:, None, None]
    assert single_trial_correlation(signal, signal[:, 0])[0] == pytest.approx(1)
    std = signal.std()
    expected = (std / (std + 1e-8)) ** 2
    assert published_single_trial_correlation(signal, signal[:, 0])[0] == pytest.approx(expected)
    assert expected < 0.1


def test_fev_and_feve_follow_the_published_definition(example: tuple) -> None:
    responses, predictions = example
    total = responses.reshape(-1, N_NEURONS).var(axis=0, ddof=1)
    noise = np.mean([image.var(axis=0, ddof=1) for image in responses], axis=0)
    error = np.square(responses - predictions).reshape(-1, N_NEURONS).mean(axis=0)
    np.testing.assert_allclose(published_explainable_variance(responses), (total - noise) / total, rtol=1e-12)
    expected = 1 - (error - noise) / (total - noise)
    np.testing.assert_allclose(published_feve(responses, predictions), expected, rtol=1e-12)


def test_with_equal_repeats_they_agree_with_ours(example: tuple) -> None:
    responses, predictions = example
    for published, own in (
        (published_single_trial_correlation, single_trial_correlation),
        (published_correlation_to_average, correlation_to_average),
        (published_feve, feve),
    ):
        np.testing.assert_allclose(published(responses, predictions), own(responses, predictions), rtol=1e-6)
    np.testing.assert_allclose(
        published_explainable_variance(responses), explainable_vs_total_var(responses)[0], rtol=1e-6
    )


def test_absent_repeats_enter_nothing(example: tuple) -> None:
    responses, predictions = (values.copy() for values in example)
    whole = published_single_trial_correlation(responses, predictions)
    responses[4, 3:] = np.nan
    kept = np.isfinite(responses[..., 0])
    for neuron in range(N_NEURONS):
        y1, y2 = responses[..., neuron][kept], predictions[..., neuron][kept]
        found = published_single_trial_correlation(responses, predictions)[neuron]
        assert found == pytest.approx(published_correlation(y1, y2), rel=1e-12)
        assert found != whole[neuron]
    responses[7, 0, 2] = np.nan  # of one neuron only
    kept[7, 0] = False
    found = published_single_trial_correlation(responses, predictions)[2]
    expected = published_correlation(responses[..., 2][kept], predictions[..., 2][kept])
    assert found == pytest.approx(expected, rel=1e-9)


def test_every_image_has_the_same_weight_in_the_published_noise(example: tuple) -> None:
    responses, _ = example
    responses = responses.copy()
    responses[0] *= 5  # a noisy image ...
    responses[0, 2:] = np.nan  # ... with two repeats
    noise = np.mean([np.nanvar(image, axis=0, ddof=1) for image in responses], axis=0)
    total = np.nanvar(responses.reshape(-1, N_NEURONS), axis=0, ddof=1)
    np.testing.assert_allclose(published_explainable_variance(responses), (total - noise) / total, rtol=1e-12)
    assert not np.allclose(published_explainable_variance(responses), explainable_vs_total_var(responses)[0], rtol=0.01)


def published_shares(responses: np.ndarray, predictions: np.ndarray, drawn: np.ndarray) -> tuple:
    """FEV and FEVE of drawn repeats, where the noise is that between different repeats."""
    with_gaps = [image[drawn][np.isfinite(image[drawn])] for image in responses]
    total = np.concatenate(with_gaps).var(ddof=1)
    error = np.nanmean(np.square(responses[:, drawn] - predictions[:, drawn]))
    noise = []
    for image in responses:
        first, second = (index.ravel() for index in np.meshgrid(drawn, drawn))
        pairs = image[[first, second]][:, first != second]
        differences = np.square(pairs[0] - pairs[1])
        if np.isfinite(differences).any():
            noise.append(np.nanmean(differences) / 2)
    return (total - np.mean(noise)) / total, 1 - (error - np.mean(noise)) / (total - np.mean(noise))


def test_intervals_are_of_the_published_formulas(example: tuple) -> None:
    responses, predictions = (values.copy() for values in example)
    responses[::2, 2:] = np.nan
    responses[5, 1:] = np.nan
    n = 60
    found = published_intervals(responses, predictions, n, np.random.default_rng(0), 0.9)
    counts = np.random.default_rng(0).multinomial(N_REPEATS, np.full(N_REPEATS, 1 / N_REPEATS), size=n)
    shares = [
        published_shares(responses[..., 1], predictions[..., 1], np.repeat(np.arange(N_REPEATS), count))
        for count in counts
    ]
    values = {
        "explainable_variance": published_explainable_variance(responses)[1],
        "feve": published_feve(responses, predictions)[1],
    }
    for name, resampled in zip(values, np.transpose(shares), strict=True):
        expected = values[name] + np.quantile(resampled, [0.05, 0.95]) - resampled.mean()
        np.testing.assert_allclose(found[name][:, 1], expected, rtol=1e-9)


def test_with_equal_repeats_intervals_agree_with_ours(example: tuple) -> None:
    published, own = (
        intervals(*example, 50, np.random.default_rng(0)) for intervals in (published_intervals, bootstrap_repeats)
    )
    for name, interval in published.items():
        np.testing.assert_allclose(interval, own[name], rtol=1e-6)


def test_a_correlation_that_eps_changes_has_no_interval(example: tuple) -> None:
    responses, predictions = (values.copy() for values in example)
    hardly = 2
    responses[..., hardly] *= 1e-8
    interval = bootstrap_repeats(responses, predictions, 20, np.random.default_rng(0))["correlation_to_average"]
    found = where_formulas_agree(responses, predictions, interval)
    assert np.isnan(found[:, hardly]).all()
    others = np.arange(N_NEURONS) != hardly
    np.testing.assert_array_equal(found[:, others], interval[:, others])


def test_every_interval_of_a_table_holds_the_value_of_its_row() -> None:
    recording = make_recording()
    rng = np.random.default_rng(0)
    silent, noisy = 3, 5
    recording.responses[:, silent] = 0.0
    trials = recording.trials
    tested = (trials["tier"] == "test").to_numpy()
    rarely_shown = tested & trials["image_id"].isin(trials["image_id"][tested].unique()[:3]).to_numpy()
    recording.responses[rarely_shown] *= rng.gamma(0.3, 5.0, (rarely_shown.sum(), 1))  # their noise differs, too
    recording.responses[:, noisy] = rng.gamma(1.0, 1.0, recording.n_bins)
    recording.valid[rarely_shown & (trials["repeat"] >= 2).to_numpy()] = False
    config = EVALUATION | {"formulas": "sensorium_2022"}
    scores = score_experiment([recording], make_predictions([recording]), config)
    of_test = scores[(scores["tier"] == "test") & (scores["neuron"] != noisy)]
    with_interval = of_test[of_test["ci_low"].notna()]
    resampled = {"correlation_to_average", "feve", "explainable_variance", "normalized_correlation"}
    assert resampled <= set(with_interval["metric"])
    inside = (with_interval["ci_low"] <= with_interval["value"]) & (with_interval["value"] <= with_interval["ci_high"])
    assert inside.all()
    assert scores[scores["neuron"] == silent]["ci_low"].isna().all()
    of_noise = scores[(scores["neuron"] == noisy) & (scores["tier"] == "test")].set_index("metric")
    share = of_noise.loc["explainable_variance"]
    assert share["ci_low"] < share["value"] < min(0, share["ci_high"])
    assert of_noise.loc["feve"]["ci_low"].isna().all(), "where there is nothing to explain"


def test_the_settings_choose_formulas_and_what_an_undefined_correlation_counts() -> None:
    recording = make_recording()
    silent = 3
    recording.responses[:, silent] = 0.0
    members = make_predictions([recording])
    means = {}
    for formulas in ("exact", "sensorium_2022"):
        for undefined in ("exclude", "zero"):
            config = EVALUATION | {"formulas": formulas, "undefined": undefined}
            scores = score_experiment([recording], members, config)
            summary = summarize(scores, config)
            chosen = summary[(summary["predictor"] == "ensemble") & (summary["tier"] == "test")].set_index("metric")
            means[formulas, undefined] = chosen.loc["single_trial_correlation"]
            own = scores[
                (scores["neuron"] == silent) & (scores["predictor"] == "ensemble") & (scores["tier"] == "test")
            ]
            value = own.set_index("metric")["value"]["single_trial_correlation"]
            assert np.isnan(value) if formulas == "exact" else value == 0
    n = recording.n_neurons
    assert (means["exact", "exclude"]["n"], means["exact", "exclude"]["n_undefined"]) == (n - 1, 1)
    assert (means["exact", "zero"]["n"], means["exact", "zero"]["n_undefined"]) == (n, 0)
    assert means["exact", "zero"]["mean"] == pytest.approx(means["exact", "exclude"]["mean"] * (n - 1) / n)
    published = [means["sensorium_2022", undefined]["mean"] for undefined in ("exclude", "zero")]
    assert published == pytest.approx([means["exact", "zero"]["mean"]] * 2, rel=1e-6)
