"""Readouts: from feature maps to the responses of each session's neurons; each is imported when it is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coread.modules.readout.cloned import ClonedReadout
    from coread.modules.readout.factorized import FactorizedReadout, MultiFactorizedReadout
    from coread.modules.readout.factorized_gaussian import (
        GaussianMaskReadout,
        MultiGaussianMaskReadout,
        MultiGaussianReadoutWrapper,
    )
    from coread.modules.readout.gaussian import MultiSampledGaussianReadout, PointGaussianReadout
    from coread.modules.readout.linear_nonlinear import LNPReadout, MultiLNPReadout
    from coread.modules.readout.multi_readout import MultiReadoutBase
    from coread.modules.readout.separable_lnp import MultiSeparableLNPReadout, SeparableLNPReadout
    from coread.modules.readout.spatial_contrast_model_readout import (
        MultiSpatialContrastReadout,
        SpatialContrastReadout,
    )
    from coread.modules.readout.spline import MultiSplineMaskReadout, SplineMaskReadout

__all__ = [
    "ClonedReadout",
    "FactorizedReadout",
    "GaussianMaskReadout",
    "LNPReadout",
    "MultiFactorizedReadout",
    "MultiGaussianMaskReadout",
    "MultiGaussianReadoutWrapper",
    "MultiLNPReadout",
    "MultiReadoutBase",
    "MultiSampledGaussianReadout",
    "MultiSeparableLNPReadout",
    "MultiSpatialContrastReadout",
    "MultiSplineMaskReadout",
    "PointGaussianReadout",
    "SeparableLNPReadout",
    "SpatialContrastReadout",
    "SplineMaskReadout",
]

_HOMES = {
    "ClonedReadout": "cloned",
    "FactorizedReadout": "factorized",
    "GaussianMaskReadout": "factorized_gaussian",
    "LNPReadout": "linear_nonlinear",
    "PointGaussianReadout": "gaussian",
    "SeparableLNPReadout": "separable_lnp",
    "SpatialContrastReadout": "spatial_contrast_model_readout",
    "SplineMaskReadout": "spline",
}


def __getattr__(name: str) -> Any:
    """Import a class from where it stands (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # not importlib, whose imports are missing in Python's import log
    return getattr(__import__(f"coread.modules.readout.{_HOMES.get(name, 'multi_readout')}", fromlist=[name]), name)
