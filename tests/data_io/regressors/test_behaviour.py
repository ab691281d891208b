"""Normalisation of behaviour: the published formulas, fitted on training trials, with a policy for what is missing."""

import numpy as np
import pytest

from coread.data_io.regressors.behaviour import BEHAVIOUR, PUPIL_CENTER, Normalisation, fit_normalisation
from coread.data_io.regressors.trial_order import RegressorError

N_BINS = 50
TRAINING = np.arange(40)


@pytest.fixture
def raw() -> np.ndarray:
    return np.random.default_rng(0).normal([30.0, 0.2, -1.0], [8.0, 0.4, 5.0], (N_BINS, 3))


def test_unit_range_is_the_published_formula_on_the_training_bins(raw: np.ndarray):
    fitted = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR)
    pupil, change, running = raw[TRAINING].T
    expected = np.stack(
        [
            (raw[:, 0] - pupil.min()) / (pupil.max() - pupil.min()),
            raw[:, 1] / change.std(),
            np.abs(raw[:, 2]) / max(-running.min(), running.max()),
        ],
        axis=1,
    )
    np.testing.assert_allclose(fitted.apply(raw, N_BINS), expected, rtol=1e-5, atol=1e-6)
    inside = fitted.apply(raw, N_BINS)[TRAINING]
    assert (inside[:, [0, 2]].min(axis=0) >= 0).all()
    np.testing.assert_allclose(inside[:, [0, 2]].max(axis=0), 1, rtol=1e-6)


def test_running_backwards_sets_the_range_too():
    raw = np.array([[0.0], [-8.0], [2.0]])
    fitted = fit_normalisation(raw, np.arange(3), "unit_range", BEHAVIOUR[2:])
    np.testing.assert_allclose(fitted.apply(raw, 3)[:, 0], [0, 1, 0.25])


def test_std_divides_and_z_score_centres(raw: np.ndarray):
    divided = fit_normalisation(raw, TRAINING, "std", BEHAVIOUR).apply(raw, N_BINS)
    np.testing.assert_allclose(divided, raw / raw[TRAINING].std(axis=0), rtol=1e-5)
    centred = fit_normalisation(raw[:, :2], TRAINING, "z_score", PUPIL_CENTER).apply(raw[:, :2], N_BINS)
    np.testing.assert_allclose(centred[TRAINING].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(centred[TRAINING].std(axis=0), 1, rtol=1e-5)


def test_recorded_units_do_not_matter_to_unit_range_but_to_std(raw: np.ndarray):
    other_units = raw * [0.01, 0.01, 2.54] + [5.0, 0.0, 0.0]  # of pupil size from another zero, of running in cm
    for scheme, same in (("unit_range", True), ("std", False)):
        normalised = [
            fit_normalisation(values, TRAINING, scheme, BEHAVIOUR).apply(values, N_BINS)
            for values in (raw, other_units)
        ]
        assert np.allclose(*normalised, rtol=1e-4, atol=1e-5) == same


def test_bins_outside_training_change_nothing_fitted(raw: np.ndarray):
    altered = raw.copy()
    altered[40:] *= 100
    assert fit_normalisation(altered, TRAINING, "unit_range", BEHAVIOUR) == fit_normalisation(
        raw, TRAINING, "unit_range", BEHAVIOUR
    )


def test_published_statistics_take_the_place_of_fitted_ones(raw: np.ndarray):
    published = {
        "min": np.array([0.0, -9.0, -50.0]),
        "max": np.array([100.0, 9.0, 20.0]),
        "mean": np.zeros(3),
        "std": np.array([1.0, 4.0, 1.0]),
    }
    fitted = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR, published=published)
    expected = np.stack([raw[:, 0] / 100, raw[:, 1] / 4, np.abs(raw[:, 2]) / 50], axis=1)
    np.testing.assert_allclose(fitted.apply(raw, N_BINS), expected, rtol=1e-5)


@pytest.mark.parametrize("missing", ["mean", "median"])
def test_nan_becomes_the_training_centre_after_normalisation(raw: np.ndarray, missing: str):
    raw[[3, 45], 2] = np.nan
    fitted = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR, missing=missing)
    normalised = fitted.apply(raw, N_BINS)
    known = np.delete(normalised[TRAINING, 2], 3)
    np.testing.assert_allclose(normalised[[3, 45], 2], getattr(np, missing)(known), rtol=1e-5)
    assert np.isfinite(normalised).all()


def test_nan_is_refused_where_asked(raw: np.ndarray):
    raw[45, 2] = np.nan
    fitted = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR, missing="error")
    with pytest.raises(RegressorError, match="running_speed is NaN in 1 bins"):
        fitted.apply(raw, N_BINS)


def test_infinity_is_refused(raw: np.ndarray):
    raw[45, 0] = np.inf
    fitted = fit_normalisation(raw, TRAINING, "std", BEHAVIOUR)
    with pytest.raises(RegressorError, match="pupil_dilation is infinite"):
        fitted.apply(raw, N_BINS)


@pytest.mark.parametrize(("value", "found"), [(np.nan, "no value"), (0.0, "only the value 0")])
def test_absent_variable_is_refused_or_zero_throughout(raw: np.ndarray, value: float, found: str):
    raw[:40, 2] = value
    with pytest.raises(RegressorError, match=f"running_speed has {found}"):
        fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR)
    normalised = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR, allow_absent=True).apply(raw, N_BINS)
    assert (normalised[:, 2] == 0).all()
    assert (normalised[:, 0] != 0).any()


def test_session_without_behaviour_is_refused_or_zero_throughout(raw: np.ndarray):
    with pytest.raises(RegressorError, match="pupil_dilation has no value"):
        fit_normalisation(None, TRAINING, "std", BEHAVIOUR)
    absent = fit_normalisation(None, TRAINING, "std", BEHAVIOUR, allow_absent=True)
    np.testing.assert_array_equal(absent.apply(None, 5), np.zeros((5, 3), np.float32))
    with pytest.raises(RegressorError, match="the recording has none"):
        fit_normalisation(raw, TRAINING, "std", BEHAVIOUR).apply(None, 5)


def test_unknown_choices_and_wrong_columns_are_named(raw: np.ndarray):
    with pytest.raises(RegressorError, match=r"scheme must be one of .*'unit_range'.*, found 'minmax'"):
        fit_normalisation(raw, TRAINING, "minmax", BEHAVIOUR)
    with pytest.raises(RegressorError, match="missing must be one of"):
        fit_normalisation(raw, TRAINING, "std", BEHAVIOUR, missing="zero")
    with pytest.raises(RegressorError, match="found 3 columns"):
        fit_normalisation(raw, TRAINING, "std", BEHAVIOUR[:2])


def test_plain_form_is_exact(raw: np.ndarray):
    for missing in ("mean", "error"):
        fitted = fit_normalisation(raw, TRAINING, "unit_range", BEHAVIOUR, missing=missing)
        assert Normalisation.from_plain(fitted.to_plain()) == fitted
