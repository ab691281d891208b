"""Building blocks of cores and readouts."""

from coread.modules.layers.reducers import WeightedChannelSumLayer
from coread.modules.layers.regularizers import FlatLaplaceL23dnorm, Laplace, TimeLaplaceL23dnorm
from coread.modules.layers.scaling import Bias3DLayer

__all__ = ["Bias3DLayer", "FlatLaplaceL23dnorm", "Laplace", "TimeLaplaceL23dnorm", "WeightedChannelSumLayer"]
