"""Indices, fits and the permutation test on curves whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.insilico.tuning_analyses.curve_fit import fit_curves
from coread.insilico.tuning_analyses.curves import (
    difference_of_error_functions,
    double_von_mises,
    fit_contrasts,
    fit_directions,
    fit_frequencies,
    fit_orientations,
    fit_sizes,
    log_gaussian,
    naka_rushton,
    ratio_of_gaussians,
    von_mises,
)
from coread.insilico.tuning_analyses.indices import (
    contrast_of_two,
    direction_selectivity,
    modulation_ratio,
    opposite_direction_index,
    orientation_selectivity,
    orthogonal_orientation_index,
    suppression_index,
    transience_index,
)
from coread.insilico.tuning_analyses.member_table import agreement, spread
from coread.insilico.tuning_analyses.permutation import direction_permutation_test

DIRECTIONS = np.arange(0, 360, 30.0)


def test_selectivity_of_extreme_curves() -> None:
    one = (DIRECTIONS == 60).astype(float)
    both = one + (DIRECTIONS == 240)
    flat = np.ones(12)
    curves = np.stack([one, both, flat, -flat, np.full(12, np.nan)])
    np.testing.assert_allclose(direction_selectivity(curves, DIRECTIONS)[:3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(orientation_selectivity(curves, DIRECTIONS)[:3], [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(opposite_direction_index(curves, DIRECTIONS)[:3], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(orthogonal_orientation_index(curves, DIRECTIONS)[:3], [1, 1, 0], atol=1e-12)
    for index in (
        direction_selectivity,
        orientation_selectivity,
        opposite_direction_index,
        orthogonal_orientation_index,
    ):
        assert np.isnan(index(curves, DIRECTIONS)[3:]).all()


@settings(max_examples=30, deadline=None)
@given(strength=st.floats(0, 1), preferred=st.floats(0, 360))
def test_selectivity_of_cosines(strength: float, preferred: float) -> None:
    angle = np.deg2rad(DIRECTIONS - preferred)
    curve = (1 + strength * np.cos(angle))[None]
    assert direction_selectivity(curve, DIRECTIONS)[0] == pytest.approx(strength / 2, abs=1e-9)
    twice = (1 + strength * np.cos(2 * angle))[None]
    assert orientation_selectivity(twice, DIRECTIONS)[0] == pytest.approx(strength / 2, abs=1e-9)
    half = DIRECTIONS[:6]  # orientations alone
    assert orientation_selectivity(twice[:, :6], half)[0] == pytest.approx(strength / 2, abs=1e-9)


def test_further_indices() -> None:
    np.testing.assert_allclose(
        contrast_of_two(np.array([3.0, 1.0, -1.0]), np.array([1.0, -2.0, -1.0])), [0.5, 1, np.nan]
    )
    np.testing.assert_allclose(
        modulation_ratio(np.array([1.0, 1.0, 0.0]), np.array([2.0, 0.0, 0.0])), [0.5, np.inf, np.nan]
    )
    sizes = np.array([[0, 1, 2, np.nan], [0, 2, 1, np.nan], [0, 2, -1, np.nan]])
    np.testing.assert_allclose(suppression_index(sizes), [0, 0.5, 1.5])
    course = np.array([[0, 2, 2, 2], [0, 2, 0, 0], [0, 2, 1, -1.0]])
    np.testing.assert_allclose(transience_index(course, 2), [0, 1, 1])


def test_fits_find_their_own_parameters() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((20, 12))
    means = rng.uniform(0, 2 * np.pi, 20)
    truth = np.column_stack([np.full(20, 0.1), np.ones(20), rng.uniform(0, 0.8, 20), rng.uniform(1, 5, 20), means])
    fit = fit_directions(7.0 * (double_von_mises(DIRECTIONS, truth) + noise), DIRECTIONS)
    error = (fit.preferred - np.rad2deg(means) + 180) % 360 - 180
    assert np.abs(error).max() < 2
    assert (np.abs(error) / fit.error).mean() < 2, "errors are of the size of the deviations"
    assert (fit.r2 > 0.97).all()
    orientations = np.arange(0, 180, 22.5)
    truth = np.column_stack([np.full(20, 0.1), np.ones(20), rng.uniform(0.5, 3, 20), means])
    fit = fit_orientations(von_mises(orientations, truth), orientations)
    error = (fit.preferred - np.rad2deg(means) + 90) % 180 - 90
    assert np.abs(error).max() < 0.5
    frequency = np.geomspace(0.5, 16, 8)
    skew = rng.uniform(-0.2, 0.2, 20)
    truth = np.column_stack([np.zeros(20), np.ones(20), rng.uniform(0, 3, 20), rng.uniform(0.5, 1.5, 20), skew])
    fit = fit_frequencies(0.01 * log_gaussian(frequency, truth), frequency)
    np.testing.assert_allclose(fit.preferred, 2 ** truth[:, 2], rtol=0.01)
    wide = 2 ** np.linspace(-12, 16, 20001)
    above = (log_gaussian(wide, truth) > 0.5).sum(axis=1) * 28 / 20000
    np.testing.assert_allclose(fit.width, above, rtol=0.03)
    assert not fit.at_edge.any()
    contrast = np.array([0.03, 0.06, 0.12, 0.25, 0.5, 0.75, 1.0])
    truth = np.column_stack([np.zeros(20), np.ones(20), np.log2(rng.uniform(0.1, 0.5, 20)), rng.uniform(1, 4, 20)])
    fit = fit_contrasts(naka_rushton(contrast, truth), contrast)
    np.testing.assert_allclose(fit.preferred, 2 ** truth[:, 2], rtol=0.02)
    np.testing.assert_allclose(fit.width, truth[:, 3], rtol=0.03)


@pytest.mark.parametrize("model", ["ratio_of_gaussians", "difference_of_error_functions"])
def test_size_fits_find_peak_and_suppression(model: str) -> None:
    function = {
        "ratio_of_gaussians": ratio_of_gaussians,
        "difference_of_error_functions": difference_of_error_functions,
    }[model]
    diameter = np.array([1, 2, 3, 4, 6, 8, 10, 14, 18, 24.0])
    truth = np.array([[1, 2, 0.6, 1.0], [2, 1.5, 0.9, 1.5], [1, 2, 0.0, 1.0]])
    curves = function(diameter, truth)
    fit = fit_sizes(curves, diameter, model)
    assert (fit.r2 > 0.999).all()
    fine = function(fit.fine, truth)
    expected = (fine.max(axis=1) - fine[:, -1]) / fine.max(axis=1)
    np.testing.assert_allclose(fit.suppression, expected, atol=0.01)
    assert fit.suppression[2] == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match="a model of size tuning is one of"):
        fit_sizes(curves, diameter, "gaussian")


def test_a_low_pass_cell_has_its_preference_at_the_edge() -> None:
    frequency = np.geomspace(0.5, 16, 8)
    fit = fit_frequencies(np.exp(-frequency / 3)[None], frequency)
    assert fit.at_edge.all()
    assert fit.preferred[0] == pytest.approx(0.5)


def test_what_is_not_known_is_not_fitted() -> None:
    line = lambda x, p: p[:, :1] + p[:, 1:] * x  # noqa: E731
    x = np.arange(4.0)
    curves = np.array([[1, 3, 5, 7], [1, 3, np.nan, 7], [1, np.nan, np.nan, np.nan], [2, 2, 2, 2], [np.nan] * 4])
    fit = fit_curves(line, x, curves, np.zeros((1, 5, 2)), (-9, -9), (9, 9))
    np.testing.assert_allclose(fit.parameters[:2], [[1, 2], [1, 2]], atol=1e-5)
    np.testing.assert_allclose(fit.r2[:2], 1)
    assert np.isnan(fit.parameters[2:]).all()
    assert np.isnan(fit.r2[2:]).all()


def test_standard_errors_are_those_of_linear_regression() -> None:
    line = lambda x, p: p[:, :1] + p[:, 1:] * x  # noqa: E731
    rng = np.random.default_rng(1)
    x = np.linspace(0, 1, 30)
    y = 1 + 2 * x + 0.1 * rng.standard_normal(30)
    fit = fit_curves(line, x, y[None], np.zeros((1, 1, 2)), (-9, -9), (9, 9))
    _, covariance = np.polyfit(x, y, 1, cov=True)
    np.testing.assert_allclose(fit.standard_error[0, ::-1], np.sqrt(np.diag(covariance)), rtol=1e-4)


def test_permutation_p_values_are_uniform_without_and_small_with_selectivity() -> None:
    rng = np.random.default_rng(3)
    null = rng.gamma(2.0, size=(400, 3, 8))
    directions = np.arange(0, 360, 45.0)
    p_values = direction_permutation_test(null, directions, 199, seed=0)
    assert abs((p_values <= 0.05).mean() - 0.05) < 0.03
    assert abs(p_values.mean() - 0.5) < 0.06
    tuned = null + 8 * (1 + np.cos(np.deg2rad(directions - 90)))
    assert (direction_permutation_test(tuned, directions, 199, seed=0) <= 0.01).mean() > 0.95
    np.testing.assert_array_equal(p_values[:50], direction_permutation_test(null[:50], directions, 199, seed=0))
    missing = null.copy()
    missing[0] = np.nan
    missing[1, 1:] = np.nan
    found = direction_permutation_test(missing, directions, 199, seed=0)
    assert np.isnan(found[0])
    assert np.isfinite(found[1])
    with pytest.raises(ValueError, match="at least one permutation"):
        direction_permutation_test(null, directions, 0, seed=0)


def test_spread_and_agreement_of_members() -> None:
    values = np.array([[10.0, 1.0, 1.0], [359.0, 1.0, 2.0], [1.0, np.nan, 4.0]])
    np.testing.assert_allclose(spread(values), [np.std([359, 1], ddof=1), np.nan, np.sqrt(2)])
    assert spread(values, 360.0)[0] == pytest.approx(1.0, rel=1e-3)
    assert np.isnan(spread(values[:1])).all()
    rng = np.random.default_rng(0)
    curve = rng.standard_normal(50)
    members = np.stack([np.stack([curve, curve]), np.stack([curve, curve]), np.stack([2 * curve + 1, -curve])])
    np.testing.assert_allclose(agreement(members), [1, -1])
    assert np.isnan(agreement(members[:1])).all()
