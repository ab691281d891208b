"""Losses and scores of predicted responses: means over the bins that a mask counts, in float32."""

from coread.modules.losses.correlation import (
    CelltypeCorrelationLoss3d,
    CorrelationLoss3d,
    L1CorrelationLoss3d,
    ScaledCorrelationLoss3d,
)
from coread.modules.losses.mse import MSE3d
from coread.modules.losses.poisson import CelltypePoissonLoss3d, L1PoissonLoss3d, PoissonLoss, PoissonLoss3d

__all__ = [
    "CelltypeCorrelationLoss3d",
    "CelltypePoissonLoss3d",
    "CorrelationLoss3d",
    "L1CorrelationLoss3d",
    "L1PoissonLoss3d",
    "MSE3d",
    "PoissonLoss",
    "PoissonLoss3d",
    "ScaledCorrelationLoss3d",
]
