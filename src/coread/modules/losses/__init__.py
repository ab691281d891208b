"""Losses and scores of predicted responses: means over the bins that a mask counts, in float32."""

from coread.modules.losses.correlation import CorrelationLoss3d, ScaledCorrelationLoss3d
from coread.modules.losses.mse import MSE3d
from coread.modules.losses.poisson import L1PoissonLoss3d, PoissonLoss3d

__all__ = ["CorrelationLoss3d", "L1PoissonLoss3d", "MSE3d", "PoissonLoss3d", "ScaledCorrelationLoss3d"]
