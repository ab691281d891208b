"""The simulator of `coread.data_io.simulate.known_cells` as a model: what analyses should find in it is known."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from coread.config import compose_data_io
from coread.data_io.readers.parameters import parse_parameters
from coread.data_io.simulate.known_cells import KnownCellParameters, KnownCells
from coread.data_io.simulate.tuning_truth import truth_table
from coread.models.core_readout import BaseCoreReadout
from coread.modules.core.base_core import DummyCore
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction
from coread.modules.readout.multi_readout import MultiReadoutBase

DATA = "simulated_tuning"  # the configuration of the shipped cells
CONTRAST_STD = 0.5  # contrast of one unit of the model's stimulus, as if that were the deviation in its training


class KnownCellsReadout(Readout):
    """The cells' responses to a stimulus in units of CONTRAST_STD: `lag` bins shorter, their filters' memory.

    `filters (neuron, subunit, lag, channel, height, width)` are parameters, so that gradients of weights show.
    """

    softplus_weight: Tensor
    energy_weight: Tensor

    def __init__(self, cells: KnownCells) -> None:
        n_neurons, _, n_lags, channels, height, width = cells.filters.shape
        super().__init__((channels, n_lags, height, width), n_neurons, get_nonlinearity("identity"))
        self.bias = None
        self.lag = n_lags - 1
        self.law = cells.law
        self.filters = nn.Parameter(torch.as_tensor(cells.filters, dtype=torch.float32))
        for name in ("softplus_weight", "energy_weight"):
            self.register_buffer(name, torch.as_tensor(getattr(cells, name), dtype=torch.float32)[:, :, None])

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], **kwargs: Any
    ) -> Float[Tensor, "batch time_out neuron"]:
        """Return expected spike counts per bin."""
        kernels = self.filters.flatten(0, 1).flip(1).movedim(1, 2)
        drive = F.conv3d(CONTRAST_STD * x, kernels)[..., 0, 0].unflatten(1, self.filters.shape[:2])
        law = self.law
        softplus = F.softplus(law.slope * (drive - law.threshold))
        counts = law.softplus_gain * self.softplus_weight * softplus + law.energy_gain * self.energy_weight * drive**2
        return (law.baseline + counts.sum(2)).movedim(1, 2)

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return none: nothing is trained."""
        return {}


class KnownCellsModel(BaseCoreReadout):
    """Known cells as the model of one session; its stimulus is in units of CONTRAST_STD around grey."""

    def __init__(self, cells: KnownCells, session: str, data_info: Mapping[str, Any]) -> None:
        readout = KnownCellsReadout(cells)
        sessions = MultiReadoutBase(readout.in_shape, {}, base_readout=KnownCellsReadout)
        sessions[session] = readout
        info = {
            "n_neurons_dict": {session: readout.outdims},
            "input_shape": [readout.in_shape[0], *readout.in_shape[2:]],
            "neurons_dict": {
                session: {"unit_id": cells.unit_ids, "cell_type": [cell.cell_type for cell in cells.cells]}
            },
            "rate_hz": cells.rate_hz,
            "stim_mean": 1.0,
            "stim_std": CONTRAST_STD,
            "unit": "spike count",
        }
        super().__init__(DummyCore(), sessions, data_info=info | dict(data_info))
        self.cells, self.session = cells, session

    @cached_property
    def truth(self) -> pd.DataFrame:
        """One row per cell: what its filters say of its tuning."""
        return truth_table(self.cells).assign(session=self.session)


def known_cells_model(config: Mapping[str, Any] | None = None) -> KnownCellsModel:
    """Return the cells of a data_io node of the reader simulated_tuning, by default the shipped ones, as a model."""
    node = compose_data_io(DATA) if config is None else config
    parameters = parse_parameters(KnownCellParameters, node["cells"], "data_io.cells")
    cells = parameters.make((int(node["height"]), int(node["width"])), float(node["frame_rate_hz"]))
    physical = {name: node.get(name) for name in ("pixel_um", "pixel_deg")}
    return KnownCellsModel(cells, str(node["sessions"][0]), {"dataset": str(node["dataset"]), **physical})
