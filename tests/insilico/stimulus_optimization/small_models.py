"""Small models whose parts or answers are known."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from coread.models.core_readout import BaseCoreReadout, UnifiedCoreReadout
from coread.modules.core.base_core import DummyCore
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout
from coread.modules.readout.multi_readout import MultiReadoutBase

SESSION = "a"
CHANNELS, HEIGHT, WIDTH = 2, 15, 13
READOUTS: dict[str, dict[str, Any]] = {
    "MultiGaussianMaskReadout": {"positive": False},
    "MultiSampledGaussianReadout": {"init_mu_range": 0.9},
    "MultiFactorizedReadout": {"mask_l1_reg": 0.0, "weights_l1_reg": 0.0, "laplace_mask_reg": 0.0},
    "MultiSplineMaskReadout": {"n_splines": 5},
}


def core_model(
    readout: str = "MultiGaussianMaskReadout",
    n_neurons: int = 6,
    *,
    seed: int = 0,
    info: dict[str, Any] | None = None,
    core: dict[str, Any] | None = None,
    **readout_settings: Any,
) -> UnifiedCoreReadout:
    """Return a convolutional model with random weights and running statistics, left in training mode."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "_target_": "coread.modules.core.base_core.SimpleCoreWrapper",
        "temporal_kernel_sizes": [4, 3],
        "spatial_kernel_sizes": [5, 3],
        "dropout_rate": 0.3,
    }
    model = UnifiedCoreReadout(
        (CHANNELS, 20, HEIGHT, WIDTH),
        {SESSION: n_neurons},
        settings | (core or {}),
        {
            "_target_": f"coread.modules.readout.multi_readout.{readout}",
            **READOUTS[readout],
            **readout_settings,
        },
        [4, 5],
        data_info={"input_shape": [CHANNELS, HEIGHT, WIDTH], "n_neurons_dict": {SESSION: n_neurons}} | (info or {}),
    )
    own: Any = model.readout[SESSION]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.1)
        if readout == "MultiGaussianMaskReadout":  # small masks, at the borders too
            own.mask_mean.uniform_(-0.16, 0.16)
            own.mask_log_var.fill_(-0.6)
    return model.train()


def gaussian_filters() -> np.ndarray:
    """Return biphasic filters (neuron, lag, channel, height, width) with Gaussian profiles of unit norm."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centers = [(4.0, 4.5), (9.5, 7.0), (7.0, 9.0)]
    lags = np.arange(6)
    course = np.exp(-0.5 * (lags - 1.5) ** 2) - 0.5 * np.exp(-0.5 * ((lags - 4) / 1.2) ** 2)
    filters = []
    for sign, (cy, cx) in zip((1, -1, 1), centers, strict=True):
        image = np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / 1.4**2)
        filters.append(sign * course[:, None, None, None] * np.stack([image, 0.4 * image])[None])
    stacked = np.stack(filters)
    return stacked / np.linalg.norm(stacked.reshape(len(stacked), -1), axis=1)[:, None, None, None, None]


class _Known(Readout):
    """Softplus of one filter, or the energy of a filter and its mirror image, per neuron."""

    def __init__(self, filters: np.ndarray, *, energy: bool) -> None:
        _, n_lags, *_ = filters.shape
        super().__init__((CHANNELS, n_lags, HEIGHT, WIDTH), len(filters), get_nonlinearity("identity"))
        self.lag, self.energy, self.bias = n_lags - 1, energy, None
        self.filters = nn.Parameter(torch.as_tensor(filters, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.filters.flip(1).movedim(1, 2)
        drive = torch.nn.functional.conv3d(x, kernels)[..., 0, 0].transpose(1, 2)
        if not self.energy:
            return torch.nn.functional.softplus(drive - 1.0)
        other = torch.nn.functional.conv3d(x, kernels.flip(-1))[..., 0, 0].transpose(1, 2)
        return drive.square() + other.square()


def known_model(*, energy: bool = False, info: dict[str, Any] | None = None) -> BaseCoreReadout:
    """Return linear-nonlinear neurons with `gaussian_filters`, or complex cells of two of them each."""
    filters = gaussian_filters()
    readouts = MultiReadoutBase((CHANNELS, 6, HEIGHT, WIDTH), {}, base_readout=_Known)
    readouts[SESSION] = _Known(filters, energy=energy)
    known = {
        "n_neurons_dict": {SESSION: len(filters)},
        "input_shape": [CHANNELS, HEIGHT, WIDTH],
        "neurons_dict": {SESSION: {"cell_type": ["on", "off", "on"]}},
        "rate_hz": 20.0,
        "pixel_um": 50.0,
        "unit": "spike count",
    }
    return BaseCoreReadout(DummyCore(), readouts, data_info=known | (info or {}))
