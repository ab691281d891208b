"""Penalties on filters and masks: Laplacian roughness relative to the filter's power, and group sparsity."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LAPLACE_1D = ((-1.0, 2.0, -1.0),)
LAPLACE_3X3 = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))
EPSILON = 1e-6


class Laplace(nn.Module):
    """Discrete 2-D Laplacian of a stack of images `(image, 1, height, width)`; `padding=None` keeps their size."""

    filter: Tensor

    def __init__(self, padding: int | None = None, persistent_buffer: bool = True):
        super().__init__()
        self.register_buffer("filter", torch.tensor(LAPLACE_3X3)[None, None], persistent=persistent_buffer)
        self.padding_size = 1 if padding is None else padding

    def forward(self, x: Float[Tensor, "image 1 height width"]) -> Float[Tensor, "image 1 out_height out_width"]:
        """Return the Laplacian of every image."""
        return F.conv2d(x, self.filter, padding=self.padding_size)


class Laplace1d(nn.Module):
    """Discrete second difference of a stack of traces `(trace, 1, time)`; `padding=None` keeps their length."""

    filter: Tensor

    def __init__(self, padding: int | None = None, persistent_buffer: bool = True):
        super().__init__()
        self.register_buffer("filter", torch.tensor(LAPLACE_1D)[None], persistent=persistent_buffer)
        self.padding_size = 1 if padding is None else padding

    def forward(self, x: Float[Tensor, "trace 1 time"]) -> Float[Tensor, "trace 1 out_time"]:
        """Return the negated second difference of every trace."""
        return F.conv1d(x, self.filter, padding=self.padding_size)


def _relative_power(filtered: Tensor, original: Tensor, avg: bool) -> Float[Tensor, ""]:
    """Power of `filtered` over the power of `original`, both summed (or averaged, for `avg`) over everything."""
    reduce = torch.mean if avg else torch.sum
    return reduce(filtered.square()) / (reduce(original.square()) + EPSILON)


class TimeLaplaceL23dnorm(nn.Module):
    """Roughness in time of filters `(out, in, time, 1, 1)`: sum of squared second differences over sum of squares."""

    def __init__(self, padding: int | None = None, persistent_buffer: bool = True):
        super().__init__()
        self.laplace = Laplace1d(padding=padding, persistent_buffer=persistent_buffer)

    def forward(self, x: Float[Tensor, "out in time 1 1"], avg: bool = False) -> Float[Tensor, ""]:
        """Return the scalar penalty; raises ValueError if the filters extend in space."""
        if x.shape[3:] != (1, 1):
            raise ValueError(f"filters must be (out, in, time, 1, 1), got {tuple(x.shape)}")
        traces = x.reshape(-1, 1, x.shape[2])
        return _relative_power(self.laplace(traces), traces, avg)


class FlatLaplaceL23dnorm(nn.Module):
    """Roughness in space of filters `(out, in, 1, height, width)`: sum of squared Laplacians over sum of squares."""

    def __init__(self, padding: int | None = None, persistent_buffer: bool = True):
        super().__init__()
        self.laplace = Laplace(padding=padding, persistent_buffer=persistent_buffer)

    def forward(self, x: Float[Tensor, "out in 1 height width"], avg: bool = False) -> Float[Tensor, ""]:
        """Return the scalar penalty; raises ValueError if the filters extend in time."""
        if x.shape[2] != 1:
            raise ValueError(f"filters must be (out, in, 1, height, width), got {tuple(x.shape)}")
        images = x.reshape(-1, 1, *x.shape[3:])
        return _relative_power(self.laplace(images), images, avg)


class LaplaceL2norm(nn.Module):
    """Roughness in space of masks `(out, in, height, width)`: sum of squared Laplacians over sum of squares."""

    def __init__(self, padding: int | None = None, persistent_buffer: bool = True):
        super().__init__()
        self.laplace = Laplace(padding=padding, persistent_buffer=persistent_buffer)

    def forward(self, x: Float[Tensor, "out in height width"], avg: bool = False) -> Float[Tensor, ""]:
        """Return the scalar penalty."""
        images = x.reshape(-1, 1, *x.shape[2:])
        return _relative_power(self.laplace(images), images, avg)


def group_sparsity(weight: Float[Tensor, "out in *kernel"]) -> Float[Tensor, ""]:
    """Sum over output channels of the L1 norm over the L2 norm of their input groups.

    It is smallest, 1 per output channel, when each reads a single input channel. The group norm has a zero
    subgradient at zero, so an input channel that is switched off does not make the gradient infinite.
    """
    norms = torch.linalg.vector_norm(weight.flatten(2), dim=2)
    return (norms.sum(1) / torch.sqrt(1e-8 + norms.square().sum(1))).sum()


def temporal_smoothing(
    sin_weights: Float[Tensor, "out in frequency"], cos_weights: Float[Tensor, "out in frequency"]
) -> Float[Tensor, ""]:
    """Power of temporal basis weights, high frequencies counting more, per output channel (Hoefling et al. 2024)."""
    ramp = torch.linspace(0.1, 0.9, sin_weights.shape[2], device=sin_weights.device, dtype=sin_weights.dtype)
    return ((ramp * sin_weights).square().sum() + (ramp * cos_weights).square().sum()) / sin_weights.shape[0]
