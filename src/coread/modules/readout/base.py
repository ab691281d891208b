"""What the readouts of one session share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.nonlinearities import Nonlinearity
from coread.modules.weight_figures import weight_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coread.modules.readout.cloned import ClonedReadout

__all__ = ["ClonedReadout", "Readout", "Reduction", "projected_clamp", "weighted"]

Reduction = Literal["sum", "mean"]


def __getattr__(name: str) -> Any:
    """Find `ClonedReadout`, which stands in a module of its own, under the module name that was published."""
    if name != "ClonedReadout":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # not importlib, whose imports are missing in Python's import log
    return __import__("coread.modules.readout.cloned", fromlist=[name]).ClonedReadout


class ProjectedClamp(torch.autograd.Function):
    """Clamp to [low, high] whose gradient can still move a value outside the interval back in.

    The gradient of an ordinary clamp is zero outside, so that a value which once left never returns.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        """Return the clamped values."""
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        """Keep what the gradient needs."""
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Drop what a descent step would move further outside."""
        (x,) = ctx.saved_tensors
        outwards = ((x < ctx.low) & (gradient > 0)) | ((x > ctx.high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def projected_clamp(x: Tensor, low: float, high: float = float("inf")) -> Tensor:
    """Return `x` clamped to [low, high]; gradient descent can move values back in, but not further out."""
    return ProjectedClamp.apply(x, low, high)


def weighted(**terms: tuple[float, Callable[[], Tensor]]) -> dict[str, Float[Tensor, ""]]:
    """Return weight times term by name; a term whose weight is zero is not computed."""
    return {name: weight * term() for name, (weight, term) in terms.items() if weight}


class Readout(nn.Module):
    """Maps feature maps `(batch, channel, time, height, width)` to the responses `(batch, time, neuron)` of a session.

    Subclasses have a `bias (neuron,)`: a parameter, or a buffer of zeros or None where the readout has none. Those that
    start from spike-triggered averages have `initialize_filters` or `initialize_positions`.
    """

    bias: Tensor | None
    lag: int = 0  # bins lost from the front
    needs_sta: bool = False  # whether it means nothing without spike-triggered averages
    takes_positions: bool = True  # whether `initialize_positions`, if there is one, may be called
    takes_filters: bool = True  # the same for `initialize_filters`

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        nonlinearity: Nonlinearity,
        published_behaviour: bool = False,
    ):
        super().__init__()
        if len(in_shape) != 4:
            raise ValueError(f"in_shape must be (channel, time, height, width), got {list(in_shape)}")
        self.in_shape = tuple(in_shape)
        self.outdims = outdims
        self.nonlinearity = nonlinearity
        self.published_behaviour = published_behaviour

    def number_of_neurons(self) -> int:
        """Return the number of neurons."""
        return self.outdims

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the penalty by name, those with weight zero left out."""
        raise NotImplementedError

    def regularizer(self, reduction: Reduction = "sum", average: bool | None = None) -> Float[Tensor, ""]:
        """Return the penalty to add to the loss: the sum of `penalties`; `average` stands for "mean" or "sum"."""
        if average is not None:
            reduction = "mean" if average else "sum"
        return torch.stack([torch.zeros((), device=self.device), *self.penalties(reduction).values()]).sum()

    def apply_reduction(self, x: Float[Tensor, "..."], reduction: Reduction | None = "mean") -> Float[Tensor, "..."]:
        """Return the mean or sum of all elements, or `x` itself for None; raises ValueError for another name."""
        if reduction not in ("mean", "sum", None):
            raise ValueError(f"reduction must be 'mean', 'sum' or None, got {reduction!r}")
        return x if reduction is None else getattr(x, reduction)()

    def plot_weight_for_neuron(
        self,
        neuron_id: int,
        axes: "tuple[Axes, Axes] | None" = None,
        remove_readout_ticks: bool = False,
        add_titles: bool = True,
    ) -> "Figure":
        """Return a figure of where a neuron reads and with which weights, on given `axes` or new ones.

        Raises IndexError for a neuron that there is not.
        """
        draw = weight_figures().draw_neuron
        figure: Figure = draw(self, neuron_id, axes, titles=add_titles, ticks=not remove_readout_ticks)
        return figure

    def save_weight_visualizations(
        self,
        folder_path: str | Path,
        file_format: str = "jpg",
        state_suffix: str = "",
        cell_indices: Sequence[int] | None = None,
    ) -> None:
        """Draw all or some neurons as `neuron_<number>[_<state_suffix>].<file_format>` in a folder."""
        for neuron in range(self.number_of_neurons()) if cell_indices is None else cell_indices:
            figure = self.plot_weight_for_neuron(neuron)
            weight_figures().save_figure(figure, folder_path, f"neuron_{neuron}", file_format, state_suffix)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def initialize(self, mean_activity: Float[Tensor, " neuron"] | None = None) -> None:
        """Start the bias at the mean rates, if there are any."""
        if mean_activity is not None:
            self.initialize_bias(mean_activity)

    @torch.no_grad()
    def initialize_bias(self, mean_activity: Float[Tensor, " neuron"]) -> None:
        """Set the bias so that the output without input is the mean rate `(neuron,)`; does nothing without a bias.

        `published_behaviour` copies the rate itself (also where it has no trainable bias). Raises ValueError for
        another number of neurons.
        """
        rate = torch.as_tensor(mean_activity, dtype=torch.float32).flatten()
        if rate.numel() != self.outdims:
            raise ValueError(f"mean activity of {rate.numel()} neurons for a readout of {self.outdims}")
        if self.bias is None:
            return
        if self.published_behaviour:
            self.bias.copy_(rate)
        elif isinstance(self.bias, nn.Parameter):
            self.bias.copy_(self.nonlinearity.inverse(rate))

    def check_positions(self, positions: Float[Tensor, "neuron 2"]) -> Float[Tensor, "neuron 2"]:
        """Return the positions in main memory; raises ValueError unless there is one (x, y) in [-1, 1] per neuron."""
        positions = torch.as_tensor(positions, dtype=torch.float32, device="cpu")
        if positions.shape != (self.outdims, 2) or not bool((positions.abs() <= 1).all()):
            raise ValueError(f"need ({self.outdims}, 2) positions in [-1, 1], got {tuple(positions.shape)}")
        return positions
