"""Squared error."""

from coread.modules.losses.base import ElementwiseLoss, Output


class MSE3d(ElementwiseLoss):
    """Squared error, by default its mean over counted bins and neurons."""

    def terms(self, output: Output, target: Output) -> Output:
        """Return the squared error of every bin and neuron."""
        return (output - target).square()
