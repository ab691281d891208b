"""Least-squares fits of one function to many curves at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

N_ITERATIONS = 100
STEP = 1e-6  # of the numerical derivatives
CHUNK_VALUES = 2**22  # entries of one batch of Jacobians, 32 MiB

# values of curves (curve, point) at points (point,), given parameters (curve, parameter)
Function: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


class CurveFit(NamedTuple):
    """Fitted parameters with their standard errors, and the share of a curve's variance that the fit explains.

    NaN where a curve is constant, or has fewer known points than free parameters. The standard errors are those of
    linear regression at the optimum, from the residuals; they are NaN for as many points as parameters, and for a
    parameter at its bound.
    """

    parameters: Float[np.ndarray, "curve parameter"]
    standard_error: Float[np.ndarray, "curve parameter"]
    r2: Float[np.ndarray, "curve"]


def fit_curves(
    function: Function,
    points: Float[np.ndarray, "point"],
    curves: Float[np.ndarray, "curve point"],
    starts: Float[np.ndarray, "start curve parameter"],
    lower: Sequence[float],
    upper: Sequence[float],
) -> CurveFit:
    """Fit `function(points, parameters)` within bounds by Levenberg-Marquardt from every start, and keep the best.

    Points of a curve that are NaN count for nothing. A parameter whose bounds agree is fixed.
    """
    n_starts, n_curves, n_parameters = starts.shape
    step = max(1, CHUNK_VALUES // max(1, n_starts * n_parameters * len(points)))
    bounds = np.array(lower, float), np.array(upper, float)
    parts = [
        _fit_chunk(function, points, curves[first : first + step], starts[:, first : first + step], bounds)
        for first in range(0, n_curves, step)
    ]
    if not parts:
        return CurveFit(np.zeros((0, n_parameters)), np.zeros((0, n_parameters)), np.zeros(0))
    return CurveFit(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _fit_chunk(
    function: Function,
    points: np.ndarray,
    curves: Float[np.ndarray, "curve point"],
    starts: Float[np.ndarray, "start curve parameter"],
    bounds: tuple[np.ndarray, np.ndarray],
) -> CurveFit:
    n_starts, n_curves, n_parameters = starts.shape
    known = np.isfinite(curves)
    values = np.where(known, curves, 0.0)
    fitted, cost = _levenberg_marquardt(
        function,
        points,
        np.tile(values, (n_starts, 1)),
        np.tile(known, (n_starts, 1)),
        np.clip(starts.reshape(-1, n_parameters), *bounds),
        bounds,
    )
    best = cost.reshape(n_starts, n_curves).argmin(axis=0)
    parameters = fitted.reshape(n_starts, n_curves, n_parameters)[best, np.arange(n_curves)]
    cost = cost.reshape(n_starts, n_curves)[best, np.arange(n_curves)]
    n_known = known.sum(axis=1)
    mean = values.sum(axis=1) / np.maximum(n_known, 1)
    variance = (np.square(values - mean[:, None]) * known).sum(axis=1)
    usable = (n_known >= (bounds[0] < bounds[1]).sum()) & (variance > 0)
    r2 = 1 - np.divide(cost, variance, out=np.full(n_curves, np.nan), where=usable)
    error = _standard_error(function, points, parameters, known, cost, bounds)
    return CurveFit(np.where(usable[:, None], parameters, np.nan), np.where(usable[:, None], error, np.nan), r2)


def _levenberg_marquardt(
    function: Function,
    points: np.ndarray,
    values: Float[np.ndarray, "curve point"],
    known: Bool[np.ndarray, "curve point"],
    start: Float[np.ndarray, "curve parameter"],
    bounds: tuple[np.ndarray, np.ndarray],
) -> tuple[Float[np.ndarray, "curve parameter"], Float[np.ndarray, "curve"]]:
    """Return the parameters of least squares and their sums of squares."""
    parameters, damping = start.copy(), np.full(len(start), 1e-2)
    residual = (values - function(points, parameters)) * known
    cost = np.square(residual).sum(axis=1)
    for _ in range(N_ITERATIONS):
        jacobian = _jacobian(function, points, parameters) * known[:, :, None]
        gradient = np.einsum("cxp,cx->cp", jacobian, residual)
        # a parameter at its bound that would leave it stays
        held = ((parameters <= bounds[0]) & (gradient < 0)) | ((parameters >= bounds[1]) & (gradient > 0))
        jacobian, gradient = jacobian * ~held[:, None, :], gradient * ~held
        curvature = np.einsum("cxp,cxq->cpq", jacobian, jacobian)
        diagonal = np.einsum("cpp->cp", curvature)
        system = curvature + (damping[:, None] * diagonal + 1e-12)[:, :, None] * np.eye(start.shape[1])
        step = np.linalg.solve(system, gradient[..., None])[..., 0]
        trial = np.clip(parameters + step, *bounds)
        trial_residual = (values - function(points, trial)) * known
        trial_cost = np.square(trial_residual).sum(axis=1)
        better = trial_cost < cost
        gain = np.where(better, cost - trial_cost, 0.0)
        parameters[better], residual[better], cost[better] = trial[better], trial_residual[better], trial_cost[better]
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-9, 1e9)
        if (gain <= 1e-12 * cost + 1e-30).all() and (damping > 1e3).all():
            break
    return parameters, cost


def _jacobian(
    function: Function, points: np.ndarray, parameters: Float[np.ndarray, "curve parameter"]
) -> Float[np.ndarray, "curve point parameter"]:
    columns = []
    for column in range(parameters.shape[1]):
        shift = np.zeros_like(parameters)
        shift[:, column] = STEP * (1 + np.abs(parameters[:, column]))
        difference = function(points, parameters + shift) - function(points, parameters - shift)
        columns.append(difference / (2 * shift[:, column : column + 1]))
    return np.stack(columns, axis=-1)


def _standard_error(
    function: Function,
    points: np.ndarray,
    parameters: Float[np.ndarray, "curve parameter"],
    known: Bool[np.ndarray, "curve point"],
    cost: Float[np.ndarray, "curve"],
    bounds: tuple[np.ndarray, np.ndarray],
) -> Float[np.ndarray, "curve parameter"]:
    free = (parameters > bounds[0]) & (parameters < bounds[1])
    jacobian = _jacobian(function, points, parameters) * known[:, :, None] * free[:, None, :]
    freedom = known.sum(axis=1) - free.sum(axis=1)
    noise = np.divide(cost, freedom, out=np.full(len(cost), np.nan), where=freedom > 0)
    inverse = np.linalg.pinv(np.einsum("cxp,cxq->cpq", jacobian, jacobian), hermitian=True)
    variance = np.einsum("cpp->cp", inverse) * noise[:, None]
    return np.where(free, np.sqrt(np.maximum(variance, 0.0)), np.nan)
