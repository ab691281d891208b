"""Normalisation of behaviour and pupil position, fitted on the training trials of a fold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from coread.data_io.regressors.trial_order import RegressorError

BEHAVIOUR = ("pupil dilation", "change of pupil dilation", "running speed")
PUPIL_CENTER = ("horizontal pupil position", "vertical pupil position")
SCHEMES = ("unit_range", "std", "z_score")
MISSING = ("mean", "median", "error")


@dataclass(frozen=True)
class Normalisation:
    """What is done to each variable: (value - offset) * factor, of the magnitude where it says so; `fill` for NaN.

    A variable that a session lacks has factor 0 and is 0 throughout. `fill` is in normalised units; None refuses NaN.
    """

    variables: tuple[str, ...]
    offset: tuple[float, ...]
    factor: tuple[float, ...]
    magnitude: tuple[bool, ...]
    fill: tuple[float, ...] | None

    def apply(self, raw: Float[np.ndarray, "bin variable"] | None, n_bins: int) -> Float32[np.ndarray, "bin variable"]:
        """Return the normalised variables of every bin; raises RegressorError where NaN or infinity is not allowed."""
        absent = np.asarray(self.factor) == 0
        if raw is None and not absent.all():
            raise RegressorError(f"{', '.join(self.variables)}: the recording has none, those fitted had")
        if raw is None:
            return np.zeros((n_bins, len(self.variables)), np.float32)
        values = _magnitude(raw, np.asarray(self.magnitude))
        normalised = (values - np.asarray(self.offset)) * np.asarray(self.factor)
        normalised[:, absent] = 0
        if np.isinf(normalised).any():
            bad = int(np.flatnonzero(np.isinf(normalised).any(axis=0))[0])
            raise RegressorError(f"{self.variables[bad]} is infinite in some bins")
        missing = np.isnan(normalised)
        if missing.any() and self.fill is None:
            bad = int(np.flatnonzero(missing.any(axis=0))[0])
            raise RegressorError(
                f"{self.variables[bad]} is NaN in {missing[:, bad].sum()} bins, and regressors.missing is 'error'"
            )
        return np.where(missing, 0.0 if self.fill is None else np.asarray(self.fill), normalised).astype(np.float32)

    def to_plain(self) -> dict[str, Any]:
        """Return the fitted numbers as lists."""
        return {name: None if value is None else list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Normalisation":
        """Return what `to_plain` wrote."""
        values: dict[str, Any] = {name: None if value is None else tuple(value) for name, value in plain.items()}
        return cls(**values)


def fit_normalisation(
    raw: Float[np.ndarray, "bin variable"] | None,
    fitted_on: Bool[np.ndarray, "bin"] | np.ndarray,
    scheme: str,
    variables: Sequence[str],
    *,
    missing: str = "mean",
    allow_absent: bool = False,
) -> Normalisation:
    """Fit a scheme on some bins, given as a mask or as indices; NaN there is left out.

    unit_range (the Model-4 entry to SENSORIUM 2022): pupil dilation to 0..1, its change divided by its std, running
    speed as magnitude to 0..1; bins outside those fitted on may leave 0..1 a little. std (Willeke et al. 2022):
    every variable divided by its std. z_score: minus mean, divided by std. NaN becomes the mean or median of the
    normalised values, or is refused. Raises RegressorError for a variable without any value or variation, unless
    `allow_absent`, which makes it 0 throughout.
    """
    _check_choices(scheme, missing)
    if raw is None:
        raw = np.full((len(fitted_on), len(variables)), np.nan)
        fitted_on = np.arange(len(fitted_on))
    if raw.shape[1] != len(variables):
        raise RegressorError(f"expected the variables {list(variables)}, found {raw.shape[1]} columns")
    magnitude = np.array([scheme == "unit_range" and name == BEHAVIOUR[2] for name in variables])
    values = _magnitude(raw[fitted_on], magnitude)
    offset, factor, fill = np.zeros((3, len(variables)))
    for column, name in enumerate(variables):
        known = values[np.isfinite(values[:, column]), column]
        if len(known) == 0 or known.min() == known.max():
            if not allow_absent:
                found = "no value at all" if len(known) == 0 else f"always {known[0]:g}"
                raise RegressorError(
                    f"{name} has {found} in the bins it is normalised on; remove it from the model, or let it be 0 "
                    "throughout with regressors.allow_absent=true"
                )
            continue
        offset[column], scale = _offset_and_scale(known, scheme, name)
        factor[column] = 1 / scale
        centre = np.median(known) if missing == "median" else known.mean()
        fill[column] = (centre - offset[column]) * factor[column]
    filled = None if missing == "error" else tuple(fill.tolist())
    return Normalisation(
        tuple(variables), tuple(offset.tolist()), tuple(factor.tolist()), tuple(magnitude.tolist()), filled
    )


def _offset_and_scale(known: Float[np.ndarray, "bin"], scheme: str, name: str) -> tuple[float, float]:
    if scheme == "z_score":
        return float(known.mean()), float(known.std())
    if scheme == "std" or name == BEHAVIOUR[1]:
        return 0.0, float(known.std())
    if name == BEHAVIOUR[2]:
        return 0.0, float(known.max())  # of the magnitude
    return float(known.min()), float(known.max() - known.min())


def _magnitude(raw: np.ndarray, which: Bool[np.ndarray, "variable"]) -> Float[np.ndarray, "bin variable"]:
    values = np.array(raw, np.float64)
    values[:, which] = np.abs(values[:, which])
    return values


def _check_choices(scheme: str, missing: str) -> None:
    for name, value, known in (("scheme", scheme, SCHEMES), ("missing", missing, MISSING)):
        if value not in known:
            raise RegressorError(f"{name} must be one of {list(known)}, found {value!r}")
