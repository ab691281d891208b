"""Spatial-contrast readout of the stimulus itself: frozen filters and four learned numbers per neuron."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from coread.data_io.sta_filters import StaFilters, extract_filters
from coread.modules.nonlinearities import get_nonlinearity
from coread.modules.readout.base import Readout, Reduction, projected_clamp
from coread.modules.readout.multi_readout import MultiReadoutBase

BLOCK_VALUES = 2**24  # filtered pixels held at a time: 64 MiB of float32
EPSILON = 1e-8  # added to the sum of a spatial filter


class SpatialContrastReadout(Readout):
    """Spatial-contrast model (Liu et al. 2022, eLife 11:e81209; for movies Sridhar et al. 2025).

    The stimulus, filtered in time by f, has under a neuron's spatial filter s the mean I and the standard deviation L
    (the local spatial contrast): I = sum(s f) / S, L = sqrt(sum(s (f - I)^2) / S), S = sum(s). The response is
    a softplus(b (I + w L) + c). For use with a `DummyCore`; the output is `lag = frames of the temporal filter - 1`
    bins shorter than the stimulus, which has one channel. Only pixels inside the spatial filters are computed, for
    blocks of neurons that fit into bounded memory.

    Args:
        in_shape: `(1, time, height, width)` of the stimulus.
        outdims: number of neurons.
        spatial_filters: `(neuron, height, width)`; None: `initialize_filters` takes them from spike-triggered averages.
        temporal_filters: `(neuron, frame)`, the current frame last.
        w_init: start of the weight of the contrast; 0 is a linear-nonlinear model.
        a_init: start of the output gain, used clipped at 0.
        b_init: start of the input gain.
        c_init: start of the offset.
        mean_activity: not used, `c_init` says where a neuron starts.
        neuron_chunk_size: most neurons that are computed at once.
        temporal_crop_frames: frames of the temporal filters where these come from spike-triggered averages.
        sigma_contour: spatial filters end this many standard deviations from their centre.
        spat_crop_size: (height, width) around the centre outside of which spatial filters are zero.
        positive_contrast: clip w at 0 (the published single-cell model).
        min_variance: floor of the variance under the root (the published population model: 1e-6).

    Raises ValueError for several channels or filters of another shape.

    """

    spatial_filters: Tensor
    temporal_filters: Tensor
    sf_sums: Tensor
    support: Tensor

    def __init__(
        self,
        in_shape: Sequence[int],
        outdims: int,
        spatial_filters: Float[Tensor, "neuron height width"] | None = None,
        temporal_filters: Float[Tensor, "neuron frame"] | None = None,
        w_init: float = 0.0,
        a_init: float = 4.0,
        b_init: float = 1.0,
        c_init: float = -5.0,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        neuron_chunk_size: int = 32,
        temporal_crop_frames: int = 30,
        sigma_contour: float = 3.0,
        spat_crop_size: Sequence[int] | None = None,
        positive_contrast: bool = False,
        min_variance: float = 1e-6,
    ):
        super().__init__(in_shape, outdims, get_nonlinearity("softplus"))
        if self.in_shape[0] != 1:
            raise ValueError(f"the spatial-contrast model needs a stimulus of one channel, got {self.in_shape[0]}")
        if (spatial_filters is None) != (temporal_filters is None):
            raise ValueError("spatial_filters and temporal_filters belong together: give both or none")
        self.neuron_chunk_size = neuron_chunk_size
        self.sigma_contour = sigma_contour
        self.spat_crop_size = None if spat_crop_size is None else tuple(spat_crop_size)
        self.positive_contrast = positive_contrast
        self.min_variance = min_variance
        self.needs_sta = self.takes_filters = spatial_filters is None
        if spatial_filters is None or temporal_filters is None:
            spatial_filters = torch.zeros(outdims, *self.in_shape[2:])
            temporal_filters = torch.zeros(outdims, temporal_crop_frames)
        self.lag = temporal_filters.shape[1] - 1
        for name in ("spatial_filters", "temporal_filters", "sf_sums"):
            self.register_buffer(name, None)
        self.register_buffer("support", None, persistent=False)
        self._set_filters(spatial_filters.float(), temporal_filters.float())
        self.w = nn.Parameter(torch.full((outdims,), float(w_init)))
        self.nl_a = nn.Parameter(torch.full((outdims,), float(a_init)))
        self.nl_b = nn.Parameter(torch.full((outdims,), float(b_init)))
        self.nl_c = nn.Parameter(torch.full((outdims,), float(c_init)))
        self.register_buffer("bias", torch.zeros(outdims))  # part of published state dicts; the offset is nl_c

    @property
    def features(self) -> Float[Tensor, " neuron"]:
        """The weight of the contrast, under its published second name."""
        return self.w

    @property
    def masks(self) -> Float[Tensor, "height width neuron"]:
        """The spatial filters, neurons last."""
        return self.spatial_filters.permute(1, 2, 0)

    @property
    def without_sta(self) -> Bool[Tensor, " neuron"]:
        """Whether a neuron has no filter, because its spike-triggered average is empty or not finite."""
        return (self.spatial_filters == 0).all(dim=(1, 2)) if self.outdims else torch.zeros(0, dtype=torch.bool)

    def initialize(self, mean_activity: Float[Tensor, " neuron"] | None = None) -> None:
        """Do nothing: start values are arguments."""

    def _set_filters(
        self, spatial: Float[Tensor, "neuron height width"], temporal: Float[Tensor, "neuron frame"]
    ) -> None:
        shapes = (self.outdims, *self.in_shape[2:]), (self.outdims, self.lag + 1)
        if (tuple(spatial.shape), tuple(temporal.shape)) != shapes:
            raise ValueError(
                f"need spatial and temporal filters {shapes}, got {tuple(spatial.shape)} and {tuple(temporal.shape)}"
            )
        self.spatial_filters, self.temporal_filters = spatial, temporal
        self.sf_sums = spatial.sum((1, 2))
        self._find_support()

    def _find_support(self) -> None:
        """List the pixels inside every filter, as many for each as the largest has, padded with outer ones."""
        inside = (self.spatial_filters != 0).flatten(1)
        n_pixels = max(int(inside.sum(1).max()), 1) if len(inside) else 1
        self.support = inside.byte().argsort(dim=1, descending=True, stable=True)[:, :n_pixels].contiguous()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._find_support()

    @torch.no_grad()
    def initialize_filters(self, sta: Float[Tensor, "neuron lag 1 height width"]) -> None:
        """Take the filters from spike-triggered averages, whose lag 0 is the current bin.

        Neurons without one (all zero, or not finite) get filters of zero, so that only their offset can be learned.
        Raises ValueError for another shape.
        """
        shape = (self.outdims, self.lag + 1, *self.in_shape[:1], *self.in_shape[2:])
        if tuple(sta.shape) != shape:
            raise ValueError(f"the filters need spike-triggered averages {shape}, got {tuple(sta.shape)}")
        averages = torch.as_tensor(sta).flip(1)[:, :, 0].cpu().numpy()
        spatial, temporal = cut_filters(extract_filters(averages, None, self.sigma_contour), self.spat_crop_size)
        self._set_filters(spatial.to(self.device), temporal.to(self.device))

    def forward(
        self, x: Float[Tensor, "batch 1 time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch out_time neuron"]:
        """Return the responses; raises ValueError for a stimulus of another size or shorter than the filters."""
        if (x.shape[1], *x.shape[3:]) != (1, *self.in_shape[2:]) or x.shape[2] <= self.lag:
            raise ValueError(
                f"stimulus is {tuple(x.shape[1:])}, the readout needs {self.in_shape} with more than {self.lag} frames"
            )
        pixels = x[:, 0].flatten(2)
        n_block = BLOCK_VALUES // max(1, pixels.shape[0] * pixels.shape[1] * self.support.shape[1])
        n_block = max(1, min(self.neuron_chunk_size, n_block))
        parts = [self._moments(pixels, slice(i, i + n_block)) for i in range(0, self.outdims, n_block)]
        mean, contrast = (torch.cat(values, dim=2) for values in zip(*parts, strict=True))
        w = projected_clamp(self.w, 0.0) if self.positive_contrast else self.w
        drive = self.nl_b * (mean + w * contrast) + self.nl_c
        return projected_clamp(self.nl_a, 0.0) * F.softplus(drive)

    def _moments(
        self, pixels: Float[Tensor, "batch time pixel"], block: slice
    ) -> tuple[Float[Tensor, "batch out_time chosen"], Float[Tensor, "batch out_time chosen"]]:
        """Return mean and standard deviation of the filtered stimulus under the spatial filters of some neurons."""
        support = self.support[block]
        weight = self.spatial_filters[block].flatten(1).gather(1, support) / (self.sf_sums[block] + EPSILON)[:, None]
        batch = len(pixels)
        seen = pixels[:, :, support].permute(0, 3, 2, 1).flatten(0, 1)  # (batch pixel, neuron, time)
        filtered = F.conv1d(seen, self.temporal_filters[block, None], groups=len(support)).unflatten(0, (batch, -1))
        mean = torch.einsum("bpnt,np->bnt", filtered, weight)
        variance = torch.einsum("bpnt,np->bnt", (filtered - mean[:, None]).square(), weight)
        return mean.transpose(1, 2), variance.clamp(min=self.min_variance).sqrt().transpose(1, 2)

    def penalties(self, reduction: Reduction = "sum") -> dict[str, Float[Tensor, ""]]:
        """Return nothing: four numbers per neuron need no penalty."""
        return {}


def cut_filters(
    filters: StaFilters, crop: Sequence[int] | None
) -> tuple[Float[Tensor, "neuron height width"], Float[Tensor, "neuron frame"]]:
    """Return spatial filters that are zero outside `crop` (height, width) around their centres, and temporal ones."""
    spatial = torch.as_tensor(filters.spatial)
    if crop is not None:
        for axis, length in enumerate(crop):
            size = spatial.shape[1 + axis]
            # of the pixel that the centre lies in; at a border the window is moved inside
            first = torch.as_tensor(filters.center_px[:, axis]).floor().long() - length // 2
            first = first.clamp(min=0).clamp(max=max(size - length, 0))
            position = torch.arange(size)
            inside = (position >= first[:, None]) & (position < first[:, None] + length)
            spatial = spatial * (inside[:, :, None] if axis == 0 else inside[:, None, :])
    return spatial, torch.as_tensor(filters.temporal)


class MultiSpatialContrastReadout(MultiReadoutBase):
    """One `SpatialContrastReadout` per session, with filters of its own: given, or taken from averages later."""

    _base_readout_cls = SpatialContrastReadout

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        spatial_filters_dict: Mapping[str, Float[Tensor, "neuron height width"]] | None = None,
        temporal_filters_dict: Mapping[str, Float[Tensor, "neuron frame"]] | None = None,
        w_init: float = 0.0,
        a_init: float = 4.0,
        b_init: float = 1.0,
        c_init: float = -5.0,
        mean_activity_dict: Mapping[str, Float[Tensor, " neuron"]] | None = None,
        readout_reg_avg: bool = False,
        neuron_chunk_size: int = 32,
        temporal_crop_frames: int = 30,
        sigma_contour: float = 3.0,
        spat_crop_size: Sequence[int] | None = None,
        positive_contrast: bool = False,
        min_variance: float = 1e-6,
    ):
        self._filters = (dict(spatial_filters_dict or {}), dict(temporal_filters_dict or {}))
        super().__init__(
            in_shape=in_shape,
            n_neurons_dict=n_neurons_dict,
            mean_activity_dict=mean_activity_dict,
            readout_reg_avg=readout_reg_avg,
            w_init=w_init,
            a_init=a_init,
            b_init=b_init,
            c_init=c_init,
            neuron_chunk_size=neuron_chunk_size,
            temporal_crop_frames=temporal_crop_frames,
            sigma_contour=sigma_contour,
            spat_crop_size=spat_crop_size,
            positive_contrast=positive_contrast,
            min_variance=min_variance,
        )

    def session_arguments(self, session: str, sessions: Sequence[str]) -> dict[str, Any]:
        """Return the filters of one session's neurons, if they were given."""
        spatial, temporal = self._filters
        return {"spatial_filters": spatial.get(session), "temporal_filters": temporal.get(session)}
