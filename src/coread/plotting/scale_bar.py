"""Scale bars of a round length."""

import numpy as np
from matplotlib.axes import Axes

LENGTHS = np.array([m * 10.0**e for e in range(-2, 5) for m in (1, 2, 5)])


def draw_scale_bar(
    axes: Axes, size: tuple[float, float], length_per_unit: float, unit: str, *, upwards: bool = False
) -> None:
    """Draw a bar of about a third of the panel's width below its lower left corner.

    `size (height, width)` is in units of the axes, of which one is `length_per_unit` long. Images count rows downwards
    from pixel centres; axes centred on zero count `upwards`.
    """
    height, width = size
    length = LENGTHS[np.abs(np.log(LENGTHS / (width / 3 * length_per_unit))).argmin()]
    extent = length / length_per_unit
    left = -width / 2 if upwards else -0.5
    down = -1.0 if upwards else 1.0
    bottom = -height / 2 if upwards else height - 0.5
    y = bottom + down * 0.07 * height
    axes.plot([left, left + extent], [y, y], color="black", linewidth=1.5, clip_on=False, solid_capstyle="butt")
    axes.text(left + extent / 2, y + down * 0.05 * height, f"{length:g} {unit}", ha="center", va="top", fontsize=5.5)
