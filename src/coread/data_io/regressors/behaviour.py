"""Normalisation of behaviour and pupil position, fitted on the training trials of a fold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from coread.data_io.regressors.trial_order import RegressorError

BEHAVIOUR = ("pupil_dilation", "pupil_dilation_derivative", "running_speed")
PUPIL_CENTER = ("pupil_x", "pupil_y")
STATISTICS = ("min", "max", "mean", "std")
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
        values = np.where(self.magnitude, np.abs(raw), raw).astype(np.float64)
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
    fitted_on: Int[np.ndarray, "fitted"],
    scheme: str,
    variables: Sequence[str],
    *,
    missing: str = "mean",
    allow_absent: bool = False,
    published: Mapping[str, Float[np.ndarray, "variable"]] | None = None,
) -> Normalisation:
    """Fit a scheme on some bins; NaN there is left out.

    unit_range (the Model-4 entry to SENSORIUM 2022): a derivative divided by its std, running speed as magnitude to
    0..1, any other variable to 0..1; bins outside those fitted on may leave 0..1. std (Willeke et al. 2022): every
    variable divided by its std. z_score: minus mean, divided by std. `missing`: NaN becomes the mean or median of the
    normalised values, or is refused. `published`: statistics of STATISTICS to use instead of those of the bins. Raises
    RegressorError for a variable without any value or variation, unless `allow_absent`, which makes it 0 throughout.
    """
    for name, value, known in (("scheme", scheme, SCHEMES), ("missing", missing, MISSING)):
        if value not in known:
            raise RegressorError(f"{name} must be one of {list(known)}, found {value!r}")
    values = np.full((0, len(variables)), np.nan) if raw is None else raw[fitted_on].astype(np.float64)
    if values.shape[1] != len(variables):
        raise RegressorError(f"expected the variables {list(variables)}, found {values.shape[1]} columns")
    magnitude = tuple(scheme == "unit_range" and name == BEHAVIOUR[2] for name in variables)
    fitted = []
    for column, name in enumerate(variables):
        finite = values[np.isfinite(values[:, column]), column]
        if len(finite) and finite.min() < finite.max():
            given = {key: float(numbers[column]) for key, numbers in (published or {}).items()}
            offset, scale = _offset_and_scale(_statistics(finite) | given, scheme, name)
            normalised = ((np.abs(finite) if magnitude[column] else finite) - offset) / scale
            fill = np.median(normalised) if missing == "median" else normalised.mean()
            fitted.append((offset, 1 / scale, float(fill)))
        elif allow_absent:
            fitted.append((0.0, 0.0, 0.0))
        else:
            raise RegressorError(
                f"{name} has {f'only the value {finite[0]:g}' if len(finite) else 'no value'} in the bins that it is "
                "normalised on; leave it out, or let it be 0 throughout with regressors.allow_absent=true"
            )
    offsets, factors, fills = zip(*fitted, strict=True)
    return Normalisation(tuple(variables), offsets, factors, magnitude, None if missing == "error" else fills)


def _statistics(known: Float[np.ndarray, "bin"]) -> dict[str, float]:
    return {name: float(getattr(np, name)(known)) for name in STATISTICS}


def _offset_and_scale(statistics: Mapping[str, float], scheme: str, name: str) -> tuple[float, float]:
    if scheme == "z_score":
        return statistics["mean"], statistics["std"]
    if scheme == "std" or name.endswith("_derivative"):
        return 0.0, statistics["std"]
    if name == BEHAVIOUR[2]:
        return 0.0, max(-statistics["min"], statistics["max"])
    return statistics["min"], statistics["max"] - statistics["min"]
