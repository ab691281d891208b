"""Readouts: from feature maps to the responses of each session's neurons."""

from coread.modules.readout.factorized import FactorizedReadout
from coread.modules.readout.factorized_gaussian import GaussianMaskReadout
from coread.modules.readout.gaussian import PointGaussianReadout
from coread.modules.readout.linear_nonlinear import LNPReadout
from coread.modules.readout.multi_readout import (
    MultiFactorizedReadout,
    MultiGaussianMaskReadout,
    MultiGaussianReadoutWrapper,
    MultiLNPReadout,
    MultiReadoutBase,
    MultiSampledGaussianReadout,
)

__all__ = [
    "FactorizedReadout",
    "GaussianMaskReadout",
    "LNPReadout",
    "MultiFactorizedReadout",
    "MultiGaussianMaskReadout",
    "MultiGaussianReadoutWrapper",
    "MultiLNPReadout",
    "MultiReadoutBase",
    "MultiSampledGaussianReadout",
    "PointGaussianReadout",
]
