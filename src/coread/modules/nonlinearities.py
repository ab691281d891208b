"""Output nonlinearities and their inverses, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

RATE_FLOOR = 1e-6  # a silent neuron's bias would start at minus infinity


def elu1(x: Tensor) -> Tensor:
    """Return elu(x) + 1, which is positive and linear above 1 (Lurz et al. 2021)."""
    return F.elu(x) + 1


def inverse_softplus(rate: Tensor) -> Tensor:
    """Return the x of softplus(x) = rate, without overflow for large rates."""
    rate = rate.clamp(min=RATE_FLOOR)
    return rate + torch.log(-torch.expm1(-rate))


def inverse_elu1(rate: Tensor) -> Tensor:
    """Return the x of elu1(x) = rate."""
    rate = rate.clamp(min=RATE_FLOOR)
    return torch.where(rate > 1, rate - 1, torch.log(rate.clamp(max=1)))


def inverse_exp(rate: Tensor) -> Tensor:
    """Return the logarithm of the rate."""
    return torch.log(rate.clamp(min=RATE_FLOOR))


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


@dataclass(frozen=True)
class Nonlinearity:
    """An output nonlinearity with its inverse; calling it applies it."""

    name: str
    function: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the nonlinearity."""
        return self.function(x)


NONLINEARITIES = {
    nonlinearity.name: nonlinearity
    for nonlinearity in (
        Nonlinearity("softplus", F.softplus, inverse_softplus),
        Nonlinearity("elu1", elu1, inverse_elu1),
        Nonlinearity("exp", torch.exp, inverse_exp),
        Nonlinearity("identity", identity, identity),
    )
}


def get_nonlinearity(name: str | Callable[[Tensor], Tensor]) -> Nonlinearity:
    """Return a nonlinearity by its name or function; raises ValueError for an unknown one."""
    for nonlinearity in NONLINEARITIES.values():
        if name in (nonlinearity.name, nonlinearity.function):
            return nonlinearity
    raise ValueError(f"unknown nonlinearity {name!r}, expected one of {sorted(NONLINEARITIES)}")


class ParametrizedELU(nn.Module):
    """ELU with learned shape: `c * x` above 0 and `a * (exp(x / b) - 1)` below."""

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 1.0, device: torch.device | str | None = None):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor(float(value), device=device)) for value in (a, b, c))

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the nonlinearity of every element."""
        # of the negative part only: the branch not taken must not overflow, nor its gradient
        below = self.a * torch.expm1(x.clamp(max=0.0) / self.b)
        return torch.where(x > 0, self.c * x, below)


class ParametrizedSoftplus(nn.Module):
    """Softplus with learned shape: `w * softplus(a * x + b)`; `a` is learned only with `learn_a`."""

    a: Tensor

    def __init__(self, a: float = 1.0, b: float = 0.0, w: float = 1.0, learn_a: bool = False):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(float(w))), nn.Parameter(torch.tensor(float(b)))
        if learn_a:
            self.a = nn.Parameter(torch.tensor(float(a)))
        else:
            # published states have no fixed slope
            self.register_buffer("a", torch.tensor(float(a)), persistent=False)

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the nonlinearity of every element."""
        return self.w * F.softplus(self.a * x + self.b)


class OutputNonlinearity(nn.Module):
    """From a readout's output to a rate: elu(x + offset) + 1, or another by name.

    `beta` makes "softplus" steeper: softplus(beta (x + offset)) / beta. Raises ValueError for an unknown name, or a
    beta that nothing uses.
    """

    def __init__(self, name: str = "elu1", offset: float = 0.0, beta: float = 1.0):
        super().__init__()
        if beta <= 0 or (beta != 1 and name != "softplus"):
            raise ValueError(f"beta is the steepness above 0 of softplus, got {beta} for {name!r}")
        self.nonlinearity, self.offset, self.beta = get_nonlinearity(name), offset, beta

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the rates."""
        x = x + self.offset if self.offset else x
        return self.nonlinearity(x) if self.beta == 1 else F.softplus(x, beta=self.beta)

    def inverse(self, rate: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Return the readout's output of a rate."""
        return self.nonlinearity.inverse(rate * self.beta) / self.beta - self.offset
