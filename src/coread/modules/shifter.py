"""Shifters: where the eye looks, as a shift of all receptive fields in the grid units of a readout."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MLPShifter(nn.Module):
    """Network from the pupil's centre to a shift in (-1, 1), every layer followed by tanh (Walker et al. 2019).

    Hidden weights start Xavier-normal, those of the last layer at `init_scale` of that, and offsets at zero, so that
    training starts with almost no shift. In neuralpredictors the initialisation never runs: there, and here with
    `published_behaviour`, weights and offsets start as in any linear layer of torch.

    Args:
        input_channels: numbers that describe the eye, usually the (x, y) of the pupil's centre as z-scores.
        hidden_channels: units of a hidden layer.
        shift_layers: linear layers; 1 has no hidden one.
        bias: learn offsets.
        gamma_shifter: weight of the mean squared weight.
        init_scale: size of the last layer's weights at the start.
        published_behaviour: see above.

    """

    def __init__(
        self,
        input_channels: int = 2,
        hidden_channels: int = 5,
        shift_layers: int = 3,
        bias: bool = True,
        gamma_shifter: float = 0.0,
        init_scale: float = 0.1,
        published_behaviour: bool = False,
    ):
        super().__init__()
        if shift_layers < 1:
            raise ValueError(f"shift_layers must be at least 1, got {shift_layers}")
        self.gamma_shifter, self.init_scale = gamma_shifter, init_scale
        sizes = [input_channels, *[hidden_channels] * (shift_layers - 1), 2]
        layers: list[nn.Module] = []
        for i in range(shift_layers):
            layers += [nn.Linear(sizes[i], sizes[i + 1], bias=bias), nn.Tanh()]
        self.mlp = nn.Sequential(*layers)
        if not published_behaviour:
            self.initialize()

    def initialize(self) -> None:
        """Draw the weights and set the offsets to zero."""
        linear = [layer for layer in self.mlp if isinstance(layer, nn.Linear)]
        for layer in linear:
            gain = self.init_scale if layer is linear[-1] else nn.init.calculate_gain("tanh")
            nn.init.xavier_normal_(layer.weight, gain=gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, pupil_center: Float[Tensor, "*batch variable"]) -> Float[Tensor, "*batch 2"]:
        """Return the shift (x, y) in grid units, where the feature maps go from -1 to 1."""
        return self.mlp(pupil_center)

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted mean squared weight, if it has a weight."""
        if not self.gamma_shifter:
            return {}
        weights = [layer.weight.flatten() for layer in self.mlp if isinstance(layer, nn.Linear)]
        return {"weight_l2": self.gamma_shifter * torch.cat(weights).square().mean()}


class AffineShifter(nn.Linear):
    """Shift tanh(W p + b) of the pupil's centre p, almost zero at the start (`StaticAffine2d` of neuralpredictors).

    `gamma_shifter` is the weight of the mean squared weight.
    """

    def __init__(self, input_channels: int = 2, bias: bool = True, gamma_shifter: float = 0.0, init_std: float = 1e-6):
        super().__init__(input_channels, 2, bias=bias)
        self.gamma_shifter, self.init_std = gamma_shifter, init_std
        self.initialize()

    def initialize(self) -> None:
        """Draw weights and offsets with standard deviation `init_std`."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.0, self.init_std)

    def forward(self, pupil_center: Float[Tensor, "*batch variable"]) -> Float[Tensor, "*batch 2"]:
        """Return the shift (x, y) in grid units, where the feature maps go from -1 to 1."""
        return super().forward(pupil_center).tanh()

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted mean squared weight, if it has a weight."""
        return {"weight_l2": self.gamma_shifter * self.weight.square().mean()} if self.gamma_shifter else {}
