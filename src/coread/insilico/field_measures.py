"""One number per neuron of separated receptive fields: place, size, kinetics, and functions that describe them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from coread.insilico.field_fits import (
    FieldFit,
    best_description,
    fit_fields,
    gabor_frequency,
    gabor_orientation,
    surround_ratio,
)
from coread.insilico.gaussian_fit import fit_gaussians
from coread.insilico.separable import SeparableParts, biphasic_index, latency_s

SPREAD = (  # columns whose standard deviation over members is reported
    "polarity",
    "center_y_px",
    "center_x_px",
    "diameter_px",
    "latency_s",
    "biphasic_index",
    "gabor_frequency_cyc_px",
)


def measure_fields(parts: SeparableParts, contour_sigma: float, bin_s: float, pixel_um: float | None) -> pd.DataFrame:
    """Return a table with a row per neuron; lengths are in pixels of the model, and in micrometres where known."""
    rows = np.arange(len(parts.channel))
    course, image = parts.temporal[rows, parts.channel], parts.spatial[rows, parts.channel]
    fit = fit_gaussians(image, parts.peak_px)
    diameter = 2 * contour_sigma * np.sqrt(fit.sigma_px.prod(axis=1))
    table = pd.DataFrame(
        {
            "channel": parts.channel,
            "polarity": parts.polarity,
            "center_y_px": fit.center_px[:, 0],
            "center_x_px": fit.center_px[:, 1],
            "sigma_major_px": fit.sigma_px[:, 0],
            "sigma_minor_px": fit.sigma_px[:, 1],
            "angle_rad": fit.angle_rad,
            "diameter_px": diameter,
            "diameter_um": np.nan if pixel_um is None else diameter * pixel_um,
            "gaussian_r2": fit.r2,
            "gaussian_converged": fit.converged,
            "separable_share": parts.explained,
            "latency_s": latency_s(course, bin_s),
            "biphasic_index": biphasic_index(course),
        }
    )
    return pd.concat([table, describe_fits(fit_fields(image, parts.peak_px))], axis=1)


def describe_fits(fits: dict[str, FieldFit]) -> pd.DataFrame:
    """Return what the fitted functions say, with standard errors (`_se`), and which one describes each field best.

    `dog_surround_weight` is the volume of the surround relative to the centre's.
    """
    gaussian, dog, gabor = (fits[name] for name in ("gaussian", "dog", "gabor"))
    ratio = surround_ratio(dog.parameters)
    frequency, frequency_se = gabor_frequency(gabor)
    orientation, orientation_se = gabor_orientation(gabor)
    amplitude = np.where(dog.parameters[:, 0] == 0, np.nan, dog.parameters[:, 0])
    return pd.DataFrame(
        {
            "best_fit": best_description(fits),
            **{f"{name}_aic": fit.aic for name, fit in fits.items()},
            "center_y_se_px": gaussian.center_se_px[:, 0],
            "center_x_se_px": gaussian.center_se_px[:, 1],
            "sigma_px": gaussian.sigma_px,
            "sigma_se_px": gaussian.sigma_se_px,
            "dog_r2": dog.r2,
            "dog_sigma_px": dog.sigma_px,
            "dog_sigma_se_px": dog.sigma_se_px,
            "dog_surround_ratio": ratio,
            "dog_surround_ratio_se": (ratio - 1) * dog.errors[:, 7],
            "dog_surround_weight": dog.parameters[:, 6] * ratio**2 / amplitude,
            "gabor_r2": gabor.r2,
            "gabor_center_y_px": gabor.center_px[:, 0],
            "gabor_center_x_px": gabor.center_px[:, 1],
            "gabor_sigma_px": gabor.sigma_px,
            "gabor_sigma_se_px": gabor.sigma_se_px,
            "gabor_frequency_cyc_px": frequency,
            "gabor_frequency_se_cyc_px": frequency_se,
            "gabor_orientation_deg": orientation,
            "gabor_orientation_se_deg": orientation_se,
        }
    )


def members_spread(table: pd.DataFrame, members: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the standard deviation over members of what `SPREAD` names, NaN for a single member."""
    return pd.DataFrame(
        {
            f"{name}_sd_members": _spread([member[name].to_numpy(float) for member in members], len(table))
            for name in SPREAD
        }
    )


def _spread(values: Sequence[Float[np.ndarray, "neuron"]], n_neurons: int) -> Float[np.ndarray, "neuron"]:
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(n_neurons, np.nan)
