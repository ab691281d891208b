"""The linear-nonlinear readout under the module name that was published."""

from coread.modules.readout.linear_nonlinear import LNPReadout

__all__ = ["LNPReadout"]
