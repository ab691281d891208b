"""Columns of orientation and direction tuning that gratings and bars share."""

import numpy as np
from jaxtyping import Float

from coread.insilico.tuning_analyses.curves import Fitted
from coread.insilico.tuning_analyses.indices import direction_selectivity, orientation_selectivity
from coread.insilico.tuning_analyses.member_table import MemberTable


def add_preferred_angles(
    table: MemberTable,
    curves: Float[np.ndarray, "row neuron angle"],
    angles_deg: Float[np.ndarray, "angle"],
    fit: Fitted,
    min_selectivity: float,
    *,
    directions: bool,
) -> None:
    """Add vector sums, preferred angles, and what tells how good the fits of `curves` are.

    A neuron whose vector sum is below `min_selectivity` prefers nothing: NaN. Angles are directions of motion, or the
    axes across the stripes of static gratings (`directions` false).
    """
    flat = curves.reshape(-1, curves.shape[-1])
    preferred = fit.preferred.reshape(table.shape)
    oriented = orientation_selectivity(flat, angles_deg).reshape(table.shape)
    table.add("osi_vector", oriented)
    # the stripes of a grating that drifts to the right are upright
    orientation = np.where(oriented >= min_selectivity, (preferred + 90) % 180, np.nan)
    table.add("preferred_orientation_deg", orientation, 180.0)
    if directions:
        directed = direction_selectivity(flat, angles_deg).reshape(table.shape)
        table.add("dsi_vector", directed)
        table.add("preferred_direction_deg", np.where(directed >= min_selectivity, preferred, np.nan), 360.0)
    table.note("direction_fit_error_deg", fit.error.reshape(table.shape)[0])
    table.note("direction_r2", fit.r2.reshape(table.shape)[0])
