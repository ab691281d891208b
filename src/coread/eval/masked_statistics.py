"""Mean, variance and correlation of arrays in which absent or masked values are NaN, which are left out."""

import numpy as np

Axis = int | tuple[int, ...] | None

# a variance below this share of the mean square is what rounding leaves of a constant
CONSTANT = 1e-20


def masked_mean(values: np.ndarray, axis: Axis) -> np.ndarray:
    """Mean along `axis`, NaN left out; NaN where nothing is left."""
    valid = np.isfinite(values)
    n = valid.sum(axis=axis)
    return (np.where(valid, values, 0.0).sum(axis=axis) / np.where(n > 0, n, np.nan))[()]


def masked_variance(values: np.ndarray, axis: Axis = 0) -> np.ndarray:
    """Unbiased variance along `axis`, NaN left out; 0 for a constant, NaN where less than two values are left."""
    mean = np.expand_dims(masked_mean(values, axis), axis)  # type: ignore[arg-type]
    n = np.isfinite(values).sum(axis=axis)
    deviation = np.nansum(np.square(values - mean), axis=axis)
    deviation = np.where(deviation <= CONSTANT * np.nansum(np.square(values), axis=axis), 0.0, deviation)
    return deviation / np.where(n > 1, n - 1, np.nan)


def positive_or_nan(values: np.ndarray) -> np.ndarray:
    """Return the values that are positive, NaN for the others."""
    return np.where(values > 0, values, np.nan)


def masked_pearson(x: np.ndarray, y: np.ndarray, axis: int = 0) -> np.ndarray:
    """Correlation of predictions `x` with responses `y`: 0 for constant `x`, NaN for constant `y`."""
    valid = np.isfinite(x) & np.isfinite(y)
    n = np.maximum(valid.sum(axis=axis, keepdims=True), 1)
    x, y = (np.where(valid, values, 0.0) for values in (x, y))
    power_x, power_y = (np.square(values).sum(axis=axis) for values in (x, y))
    x, y = (np.where(valid, values - values.sum(axis=axis, keepdims=True) / n, 0.0) for values in (x, y))
    var_x, var_y = (np.square(values).sum(axis=axis) for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x * y).sum(axis=axis) / np.sqrt(var_x * var_y)
    return np.where(var_y <= CONSTANT * power_y, np.nan, np.where(var_x <= CONSTANT * power_x, 0.0, r))
