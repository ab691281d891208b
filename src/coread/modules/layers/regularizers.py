"""Penalties on filters and masks: Laplacian roughness relative to the filter's power, and group sparsity."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LAPLACE_1D = ((-1.0, 2.0, -1.0),)
LAPLACE_3X3 = ((0.0, -1.0, 0.0), (-1.0, 4.0, -1.0), (0.0, -1.0, 0.0))
# Laplacians of a Gaussian by size, in the usual integer approximations; their sign is that of the second derivative
LAPLACE_5X5 = (
    (0.0, 0.0, 1.0, 0.0, 0.0),
    (0.0, 1.0, 2.0, 1.0, 0.0),
    (1.0, 2.0, -16.0, 2.0, 1.0),
    (0.0, 1.0, 2.0, 1.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0),
)
LAPLACE_7X7 = (
    (0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0),
    (0.0, 1.0, 3.0, 3.0, 3.0, 1.0, 0.0),
    (1.0, 3.0, 0.0, -7.0, 0.0, 3.0, 1.0),
    (1.0, 3.0, -7.0, -24.0, -7.0, 3.0, 1.0),
    (1.0, 3.0, 0.0, -7.0, 0.0, 3.0, 1.0),
    (0.0, 1.0, 3.0, 3.0, 3.0, 1.0, 0.0),
    (0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0),
)
LAPLACE_2D = {3: LAPLACE_3X3, 5: LAPLACE_5X5, 7: LAPLACE_7X7}
EPSILON = 1e-6


class Laplace(nn.Module):
    """Discrete 2-D Laplacian of a stack of images `(image, 1, height, width)`; `padding=None` keeps their size.

    `filter_size` is 3, or 5 or 7 for Laplacians that are smoothed. Raises ValueError for another.
    """

    filter: Tensor

    def __init__(self, padding: int | None = None, filter_size: int = 3, persistent_buffer: bool = True):
        super().__init__()
        if filter_size not in LAPLACE_2D:
            raise ValueError(f"filter_size must be one of {sorted(LAPLACE_2D)}, got {filter_size}")
        self.register_buffer("filter", torch.tensor(LAPLACE_2D[filter_size])[None, None], persistent=persistent_buffer)
        self.padding_size = filter_size // 2 if padding is None else padding

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


class GaussianLaplaceL2(nn.Module):
    """Roughness in space of masks `(out, in, height, width)` that counts more the further from the centre.

    The squared Laplacian is weighted by the square of 1 minus a Gaussian around the centre of the mask, which is 1 at
    its peak and 0 at the corners, of standard deviation a quarter of the shorter side. `kernel` is the size of masks.
    """

    gaussian2d: Tensor

    def __init__(self, kernel: int | Sequence[int], padding: int | None = None):
        super().__init__()
        self.laplace = Laplace(padding=padding)
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.kernel = (int(height), int(width))
        self.register_buffer("gaussian2d", centred_bump(*self.kernel, sigma=min(self.kernel) / 4), persistent=False)

    def forward(self, x: Float[Tensor, "out in height width"], avg: bool = False) -> Float[Tensor, ""]:
        """Return the scalar penalty; raises ValueError for masks of another size, or a padding that changes it."""
        images = x.reshape(-1, 1, *x.shape[2:])
        filtered = self.laplace(images)
        if filtered.shape[2:] != self.kernel or x.shape[2:] != self.kernel:
            raise ValueError(
                f"masks must be {self.kernel} before and after their Laplacian, got {tuple(x.shape[2:])} and "
                f"{tuple(filtered.shape[2:])}"
            )
        return _relative_power(filtered * (1 - self.gaussian2d), images, avg)


def centred_bump(height: int, width: int, sigma: float) -> Float[Tensor, "height width"]:
    """Return a circular Gaussian around the centre of an image, moved and scaled to run from 0 to 1."""
    y, x = (torch.arange(size) - (size - 1) / 2 for size in (height, width))
    bump = torch.exp(-(y.square()[:, None] + x.square()) / (2 * sigma**2))
    return (bump - bump.min()) / (bump.max() - bump.min())


def group_sparsity(weight: Float[Tensor, "out in *kernel"]) -> Float[Tensor, ""]:
    """Sum over output channels of the L1 norm over the L2 norm of their input groups.

    It is smallest, 1 per output channel, when each reads a single input channel. The group norm has a zero
    subgradient at zero, so an input channel that is switched off does not make the gradient infinite.
    """
    norms = torch.linalg.vector_norm(weight.flatten(2), dim=2)
    return (norms.sum(1) / torch.sqrt(1e-8 + norms.square().sum(1))).sum()


def temporal_smoothing(
    sin: Float[Tensor, "out in frequency"], cos: Float[Tensor, "out in frequency"]
) -> Float[Tensor, ""]:
    """Power of temporal basis weights, high frequencies counting more, per output channel (Hoefling et al. 2024)."""
    ramp = torch.linspace(0.1, 0.9, sin.shape[2], device=sin.device, dtype=sin.dtype)
    return ((ramp * sin).square().sum() + (ramp * cos).square().sum()) / sin.shape[0]
