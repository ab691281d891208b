"""Linear-nonlinear-Poisson models of single cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.models.core_readout import OptimizerFactory, SchedulerFactory
from coread.models.single_cell import SINGLE_CELL, IndependentCells, with_input_shape
from coread.modules.readout.separable_lnp import MultiSeparableLNPReadout

SPATIAL_ROUGHNESS = ("LaplaceL2norm",)
TEMPORAL_ROUGHNESS = ("Laplace1d", "TimeLaplaceL23dnorm")


class SingleCellSeparatedLNP(IndependentCells):
    """Space-time separable LNP models, one per cell, of the stimulus around each cell's receptive field.

    Published as a model of one cell, which it is without `n_neurons_dict`; with it, all cells of all sessions are
    trained together, those of one session each as if it were alone. With several sessions a shorter one gets more
    passes per epoch (`SeparableLNPReadout` describes the model and its arguments).

    Args:
        in_shape: `(channel, time, height, width)` of the stimulus.
        rf_location: (y, x) of the receptive field, by default the centre of the frame; `initialization: sta` gives
            every cell its own.
        spat_kernel_size: (height, width) of the patch that a cell sees.
        learning_rate: of the optimiser.
        rank: number of products of an image and a time course per filter.
        smooth_weight_spat: weight of the roughness of the images.
        smooth_weight_temp: weight of the roughness of the time courses.
        sparse_weight: weight of the mean absolute weights.
        smooth_regularizer_spat: "LaplaceL2norm", the roughness there is.
        smooth_regularizer_temp: "Laplace1d" or "TimeLaplaceL23dnorm": squared second differences relative to the power
            (the published "Laplace1d" summed the differences themselves, which is no roughness).
        smooth_regularizer: the same as `smooth_regularizer_spat`; had no effect.
        laplace_padding: pixels and frames added around filters before their roughness is taken.
        nonlinearity: "exp", "softplus", "parametrized_softplus", ...
        normalize_weights: use filters of length 1.
        loss: by default the mean Poisson loss.
        evaluation_loss: further score that is logged; `correlation_loss` is the same.
        temporal_kernel_size: frames per filter, by default all of `in_shape`.
        bias: learn an offset per cell, from its mean rate on.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        rf_location: Sequence[int] | None = None,
        spat_kernel_size: Sequence[int] = (15, 15),
        learning_rate: float = 1e-3,
        rank: int = 1,
        smooth_weight_spat: float = 0.0,
        smooth_weight_temp: float = 0.0,
        sparse_weight: float = 0.0,
        smooth_regularizer_spat: str = "LaplaceL2norm",
        smooth_regularizer_temp: str = "Laplace1d",
        smooth_regularizer: str = "LaplaceL2norm",
        laplace_padding: int | None = None,
        nonlinearity: str = "exp",
        normalize_weights: bool = True,
        loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        correlation_loss: nn.Module | None = None,
        temporal_kernel_size: int | None = None,
        bias: bool = False,
        n_neurons_dict: Mapping[str, int] | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
    ) -> None:
        for name, chosen, known in (
            ("smooth_regularizer_spat", smooth_regularizer_spat, SPATIAL_ROUGHNESS),
            ("smooth_regularizer", smooth_regularizer, SPATIAL_ROUGHNESS),
            ("smooth_regularizer_temp", smooth_regularizer_temp, TEMPORAL_ROUGHNESS),
        ):
            if chosen not in known:
                raise ValueError(f"{name} {chosen!r} is unknown, expected one of {list(known)}")
        info = with_input_shape(data_info, in_shape)
        readout = MultiSeparableLNPReadout(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict or {SINGLE_CELL: 1},
            rf_location=rf_location,
            spat_kernel_size=spat_kernel_size,
            temporal_kernel_size=int(in_shape[1]) if temporal_kernel_size is None else temporal_kernel_size,
            rank=rank,
            smooth_weight_spat=smooth_weight_spat,
            smooth_weight_temp=smooth_weight_temp,
            sparse_weight=sparse_weight,
            laplace_padding=laplace_padding,
            nonlinearity=nonlinearity,
            normalize_weights=normalize_weights,
            bias=bias,
            mean_activity_dict=info.get("mean_activity_dict"),
        )
        super().__init__(
            readout,
            learning_rate,
            loss=loss,
            correlation_loss=evaluation_loss if correlation_loss is None else correlation_loss,
            data_info=info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )

    def crop_input(
        self, input_tensor: Float[Tensor, "batch channel time height width"]
    ) -> Float[Tensor, "batch channel time patch_height patch_width"]:
        """Return the patch that the cell of a single-cell model sees; the model takes both, and cuts frames itself.

        Raises ValueError for a model of several cells.
        """
        readout: Any = next(iter(self.readout.values()))
        if len(self.readout) != 1 or readout.outdims != 1:
            raise ValueError("crop_input is of a model of one cell; several cells see a patch each")
        patch = input_tensor.flatten(3)[..., readout.patches()[0]]
        return patch.unflatten(3, readout.kernel_size)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read also the published names of a model of one cell."""
        if f"{prefix}space_conv.weight" in state_dict:
            cell = f"{prefix}readout.{SINGLE_CELL}."
            state_dict[f"{cell}space_weights"] = state_dict.pop(f"{prefix}space_conv.weight")[None, :, :, 0]
            state_dict[f"{cell}time_weights"] = state_dict.pop(f"{prefix}time_conv.weight")[..., 0, 0]
            state_dict[f"{cell}rf_location"] = self.readout[SINGLE_CELL].rf_location
            for ours, published in (("bias", "nonlinearity.b"), ("output_gain", "nonlinearity.w")):
                if f"{prefix}{published}" in state_dict:
                    state_dict[f"{cell}{ours}"] = torch.atleast_1d(state_dict.pop(f"{prefix}{published}"))
        super()._load_from_state_dict(state_dict, prefix, *args)
