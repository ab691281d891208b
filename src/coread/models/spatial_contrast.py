"""Spatial-contrast models: frozen filters from spike-triggered averages, four learned numbers per cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.data_io.sta_filters import extract_filters, load_sta
from coread.models.core_readout import BaseCoreReadout, OptimizerFactory, SchedulerFactory
from coread.models.single_cell import SINGLE_CELL, IndependentCells, with_input_shape
from coread.modules.core.base_core import DummyCore
from coread.modules.readout.spatial_contrast_model_readout import MultiSpatialContrastReadout, cut_filters

FILES_READ = "sta_frames"  # in data_info: the filters were read from files, and are in the state dict since
Filters = dict[str, Float[Tensor, "neuron *shape"]]


class _StaFiles(NamedTuple):
    """How averages lie in files, and how filters are taken from them."""

    folder: Path
    flip_sta: bool
    temporal_crop_frames: int | None
    sigma_contour: float
    spat_crop_size: Sequence[int] | None

    def read(self, names: Mapping[str, Sequence[str]], frame_size: tuple[int, int]) -> tuple[Filters, Filters]:
        """Return spatial and temporal filters of every session, given the names of its cells' files."""
        spatial, temporal = {}, {}
        for session, files in names.items():
            averages = np.stack([load_sta(self.folder / name, frame_size, self.flip_sta) for name in files])
            filters = extract_filters(averages, self.temporal_crop_frames, self.sigma_contour)
            spatial[session], temporal[session] = cut_filters(filters, self.spat_crop_size)
        return spatial, temporal


class SingleCellSpatialContrast(IndependentCells):
    """Spatial-contrast models, one per cell: a softplus(b (mean + w contrast) + c) with w >= 0 and a >= 0.

    Published as a model of one cell, which it is without `n_neurons_dict`; with it, all cells of all sessions are
    trained together, those of one session each as if it were alone. With several sessions a shorter one gets more
    passes per epoch (`SpatialContrastReadout` describes the model). Filters are read from the file `sta_file_name` in
    `sta_dir`, (frame, height, width); without these they are taken from the spike-triggered averages of the training
    bins (`initialization: sta`).

    Args:
        in_shape: `(1, time, height, width)` of the stimulus.
        sta_dir: folder of the average of one cell.
        sta_file_name: its file.
        flip_sta: mirror the average in the file along the width.
        temporal_crop_frames: frames of the temporal filter; None keeps all of a file.
        sigma_contour: the spatial filter ends this many standard deviations from its centre.
        spat_crop_size: (height, width) of the patch that a cell sees; None: the frame.
        learning_rate: of the optimiser.
        w_init: start of the weight of the contrast.
        a_init: start of the output gain.
        b_init: start of the input gain.
        c_init: start of the offset.
        loss: by default the mean Poisson loss.
        validation_loss: further score that is logged; `correlation_loss` and `evaluation_loss` are the same.

    Raises ValueError where the filters would have no length.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        sta_dir: str | Path | None = None,
        sta_file_name: str | None = None,
        flip_sta: bool = False,
        temporal_crop_frames: int | None = None,
        sigma_contour: float = 3.0,
        spat_crop_size: Sequence[int] | None = None,
        learning_rate: float = 1e-3,
        w_init: float = 0.0,
        a_init: float = 1.0,
        b_init: float = 1.0,
        c_init: float = 0.0,
        loss: nn.Module | None = None,
        validation_loss: nn.Module | None = None,
        correlation_loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        n_neurons_dict: Mapping[str, int] | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
    ) -> None:
        info = with_input_shape(data_info, in_shape)
        if (sta_dir is None) != (sta_file_name is None) or (sta_dir is not None and n_neurons_dict is not None):
            raise ValueError("sta_dir and sta_file_name belong together, to a model of one cell without n_neurons_dict")
        spatial: Filters = {}
        temporal: Filters = {}
        if sta_dir is not None and FILES_READ not in info:
            files = _StaFiles(Path(sta_dir), flip_sta, temporal_crop_frames, sigma_contour, spat_crop_size)
            spatial, temporal = files.read({SINGLE_CELL: [str(sta_file_name)]}, (int(in_shape[2]), int(in_shape[3])))
            info[FILES_READ] = int(temporal[SINGLE_CELL].shape[1])
        frames = info.get(FILES_READ, temporal_crop_frames)
        if frames is None:
            raise ValueError("temporal_crop_frames is needed where filters come from the training bins")
        readout = MultiSpatialContrastReadout(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict or {SINGLE_CELL: 1},
            spatial_filters_dict=spatial,
            temporal_filters_dict=temporal,
            w_init=w_init,
            a_init=a_init,
            b_init=b_init,
            c_init=c_init,
            temporal_crop_frames=frames,
            sigma_contour=sigma_contour,
            spat_crop_size=spat_crop_size,
            positive_contrast=True,
            min_variance=1e-12,
        )
        scores = [score for score in (validation_loss, correlation_loss, evaluation_loss) if score is not None]
        super().__init__(
            readout,
            learning_rate,
            loss=loss,
            correlation_loss=scores[0] if scores else None,
            data_info=info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Read also the published names of a model of one cell, whose filters came from its file."""
        if f"{prefix}nl_a" in state_dict:
            own = self.readout[SINGLE_CELL].state_dict(prefix=f"{prefix}readout.{SINGLE_CELL}.")
            state_dict.update(own)
            for name in ("w", "nl_a", "nl_b", "nl_c"):
                state_dict[f"{prefix}readout.{SINGLE_CELL}.{name}"] = torch.atleast_1d(state_dict.pop(prefix + name))
            for name in ("spatial_filter", "temporal_filter", "spatial_filter_sum"):
                state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SpatialContrastCoreReadout(BaseCoreReadout):
    """Spatial-contrast models of whole populations, without a core: a softplus(b (mean + w contrast) + c) with a >= 0.

    Filters are read from files in `sta_dir`, one per cell, named by `sta_file_pattern` with {retina_index} (the
    session) and {cell_index} (`cell_indices` of `data_info["sessions_kwargs"]`, or `unit_id` of the table of neurons);
    without `sta_dir` they are taken from the spike-triggered averages of the training bins (`initialization: sta`).

    Args:
        in_shape: `(1, time, height, width)` of the stimulus.
        n_neurons_dict: neurons of every session.
        sta_dir: folder of the averages.
        sta_file_pattern: names of their files.
        flip_sta: mirror the averages in the files along the width.
        temporal_crop_frames: frames of the temporal filters; None keeps all of the files.
        sigma_contour: spatial filters end this many standard deviations from their centre.
        cut_first_n_frames: bins that are dropped in addition to the filters' length.
        w_init: start of the weight of the contrast.
        a_init: start of the output gain.
        b_init: start of the input gain.
        c_init: start of the offset.
        learning_rate: of the optimiser.
        neuron_chunk_size: most neurons that are computed at once.
        spat_crop_size: (height, width) around its centre outside of which a spatial filter is zero.

    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        sta_dir: str | Path | None = None,
        sta_file_pattern: str = "cell_data_{retina_index}_WN_stas_cell_{cell_index}.npy",
        flip_sta: bool = False,
        temporal_crop_frames: int | None = 30,
        sigma_contour: float = 3.0,
        cut_first_n_frames: int = 0,
        w_init: float = 0.0,
        a_init: float = 4.0,
        b_init: float = 1.0,
        c_init: float = -5.0,
        learning_rate: float = 0.01,
        neuron_chunk_size: int = 32,
        loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        data_info: Mapping[str, Any] | None = None,
        correlation_loss: nn.Module | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        spat_crop_size: Sequence[int] | None = None,
    ) -> None:
        info = with_input_shape(data_info, in_shape)
        spatial: Filters = {}
        temporal: Filters = {}
        if sta_dir is not None and FILES_READ not in info:
            files = _StaFiles(Path(sta_dir), flip_sta, temporal_crop_frames, sigma_contour, spat_crop_size)
            names = {session: _file_names(session, sta_file_pattern, info) for session in n_neurons_dict}
            spatial, temporal = files.read(names, (int(in_shape[2]), int(in_shape[3])))
            info[FILES_READ] = next(int(filters.shape[1]) for filters in temporal.values())
        frames = info.get(FILES_READ, temporal_crop_frames)
        if frames is None:
            raise ValueError("temporal_crop_frames is needed where filters come from the training bins")
        readout = MultiSpatialContrastReadout(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            spatial_filters_dict=spatial,
            temporal_filters_dict=temporal,
            w_init=w_init,
            a_init=a_init,
            b_init=b_init,
            c_init=c_init,
            neuron_chunk_size=neuron_chunk_size,
            temporal_crop_frames=frames,
            sigma_contour=sigma_contour,
            spat_crop_size=spat_crop_size,
        )
        super().__init__(
            DummyCore(cut_first_n_frames=cut_first_n_frames),
            readout,
            learning_rate=learning_rate,
            loss=loss,
            correlation_loss=correlation_loss,
            evaluation_loss=evaluation_loss,
            data_info=info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )


def _file_names(session: str, pattern: str, info: Mapping[str, Any]) -> list[str]:
    """Return the file of every cell of a session; raises ValueError if nobody says which cells these are."""
    cells = info.get("sessions_kwargs", {}).get(session, {}).get("cell_indices")
    if cells is None:
        cells = info.get("neurons_dict", {}).get(session, {}).get("unit_id")
    if cells is None:
        raise ValueError(
            f"session {session!r}: data_info must list its cells, as sessions_kwargs.{session}.cell_indices or in the "
            "table of neurons as unit_id, to find the files of their spike-triggered averages"
        )
    return [pattern.format(retina_index=session, cell_index=cell) for cell in cells]
