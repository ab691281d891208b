"""Responses of one neuron per item, computed from the part of the stimulus that the neuron sees.

A model computes all neurons from the whole stimulus. Here every item of a batch has a neuron (or a group) of its own:
the mask of its readout tells which pixels of the core's output count, these which patch of the stimulus, and only that
patch, those frames and that neuron's weights are computed. What a mask has beyond its patch, at most a share
`tolerance` of it, sees grey.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from coread.insilico.frozen_model import frozen
from coread.insilico.local_core import CorePatches, Step, Triple, core_steps
from coread.insilico.pooled_readout import Boxes, PooledReadout, join_boxes, mask_boxes, pooled_readout
from coread.insilico.population import Population
from coread.models.core_readout import BaseCoreReadout
from coread.models.image_core_readout import ImageCoreReadout
from coread.models.typical_context import respond_typically, typical_context
from coread.modules.readout.multi_readout import MultiReadoutBase

log = logging.getLogger(__name__)

# sides of patches of the core's output: few sizes make few batches, and a neuron's is the same in any company
SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Places(Protocol):
    """Where the items' patches lie in the stimulus."""

    @property
    def in_length(self) -> Triple:
        """(time, height, width) of a patch."""
        ...

    def select(self, kept: Int[Tensor, " kept"]) -> Any:
        """Return those of some items."""
        ...

    def cut(self, stimuli: Tensor) -> Tensor:
        """Return the patches of whole stimuli, one for all or one per item."""
        ...

    def paste(self, patches: Tensor) -> Tensor:
        """Return whole stimuli, grey around the patches."""
        ...

    def clean(self, patches: Tensor) -> Tensor:
        """Return the patches with zeros beyond the borders of the stimulus."""
        ...


class WholeStimulus(NamedTuple):
    """The places of items that see all of the stimulus."""

    in_length: Triple
    n_items: int

    def select(self, kept: Int[Tensor, " kept"]) -> "WholeStimulus":
        """Return the places of some items."""
        return self._replace(n_items=len(kept))

    def cut(self, stimuli: Tensor) -> Tensor:
        """Return the stimuli, one per item."""
        return stimuli.expand(self.n_items, *stimuli.shape[1:]).clone()

    def paste(self, patches: Tensor) -> Tensor:
        """Return the patches, which are whole."""
        return patches

    def clean(self, patches: Tensor) -> Tensor:
        """Return the patches, which have nothing beyond the borders."""
        return patches


class _Parts(NamedTuple):
    """A member: the model, its core as steps and its readout in the common form, where it has them."""

    model: BaseCoreReadout
    steps: list[Step] | None
    readout: PooledReadout | None


class _Own(NamedTuple):
    """What a member's readout has for the neurons of each item; `beyond` is the drive from beyond the patch."""

    mask: Float[Tensor, "item pixel neuron"]
    weights: Float[Tensor, "item channel neuron"]
    bias: Float[Tensor, "item neuron"]
    beyond: Float[Tensor, "item time neuron"]
    gain: Float[Tensor, "item neuron"]
    offset: Float[Tensor, "item neuron"]

    def select(self, kept: Int[Tensor, " kept"]) -> "_Own":
        return _Own(*[value[kept] for value in self])


class OwnResponse:
    """The response of every item's neuron, or weighted mean of its neurons, in recorded units.

    The models behind it are to be `frozen`.
    """

    def __init__(
        self,
        responses: "LocalPopulation",
        places: Places,
        owns: Sequence[_Own | None],
        neurons: Int[Tensor, "item neuron"],
        shares: Float[Tensor, "item neuron"],
    ):
        self._responses, self.places, self._owns = responses, places, owns
        self._neurons, self._shares = neurons, shares

    def __call__(self, patches: Float[Tensor, "item channel time height width"]) -> Float[Tensor, "item time_out"]:
        """Return the mean over members of the responses to patches, in contrast."""
        return self.of_members(patches).mean(dim=0)

    def of_members(
        self, patches: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "member item time_out"]:
        """Return every member's responses to patches, in contrast."""
        parts = [self._of_member(member, patches) for member in range(len(self._owns))]
        return torch.stack(parts)

    def select(self, kept: Int[Tensor, " kept"]) -> "OwnResponse":
        """Return the response of some items."""
        owns = [None if own is None else own.select(kept) for own in self._owns]
        places = self.places.select(kept)
        return OwnResponse(self._responses, places, owns, self._neurons[kept], self._shares[kept])

    def _of_member(self, member: int, patches: Tensor) -> Float[Tensor, "item time_out"]:
        source, own = self._responses, self._owns[member]
        scale = source.scales[member][self._neurons]
        shown = source.shown_to(member, patches)
        if own is None:
            rate = source.full(member, shown).gather(2, self._neurons[:, None].expand(-1, source.window[1], -1))
        else:
            readout: Any = source.parts[member].readout
            maps = source.maps(member, shown, self.places)
            seen = (maps.flatten(3).flatten(1, 2) @ own.mask).unflatten(1, maps.shape[1:3])
            drive = (seen * own.weights[:, :, None]).sum(dim=1) + own.bias[:, None] + own.beyond
            rate = readout.nonlinearity(drive) * own.gain[:, None] + own.offset[:, None]
        return (rate * (scale * self._shares)[:, None]).sum(dim=-1)


class LocalPopulation:
    """Makes `OwnResponse`s to stimuli of `n_frames` in a window `(first, number)` of the output bins (None: all).

    `whole_because` tells why patches are not used, where they are not: the whole stimulus is computed then, and for
    readouts of other forms all neurons. Raises ValueError for a stimulus no longer than the lag or a window beyond it.
    """

    def __init__(
        self, population: Population, n_frames: int, *, tolerance: float, window: tuple[int, int] | None = None
    ):
        n_out = n_frames - population.lag
        self.window = (0, n_out) if window is None else window
        if n_out < 1 or self.window[1] < 1 or sum(self.window) > n_out or self.window[0] < 0:
            raise ValueError(
                f"window {self.window} is not within the {n_out} bins that a stimulus of {n_frames} frames gives "
                f"behind a lag of {population.lag}"
            )
        self._population, self._tolerance = population, tolerance
        self.in_size: Triple = (n_frames, *population.frame_shape[1:])
        self.scales = population.scales()
        self._normalisation = _normalisations(population)
        self.parts = [_parts(model, population.session) for model in population.models]
        self.whole_because = _why_whole(self.parts)
        if self.whole_because is not None:
            log.info("session %s: the whole stimulus is computed: %s", population.session, self.whole_because)
        self._boxes = self._find_boxes()

    @torch.no_grad()
    def _find_boxes(self) -> Boxes:
        if self.whole_because is None:
            return join_boxes([mask_boxes(part.readout, self._tolerance) for part in self.parts if part.readout])
        size = torch.ones(self._population.n_neurons, 2, dtype=torch.long, device=self._population.device)
        return Boxes(torch.zeros_like(size), size)

    def groups(self, neurons: Int[Tensor, "item neuron"]) -> list[Int[Tensor, " item"]]:
        """Return items that have patches of the same size, whatever other items there are."""
        sides = self._sides(self._around(neurons))
        return [torch.nonzero(sides == side)[:, 0] for side in sides.unique()]

    def _around(self, neurons: Int[Tensor, "item neuron"]) -> Boxes:
        """Return the box around the boxes of an item's neurons."""
        start, size = self._boxes.start[neurons], self._boxes.size[neurons]
        first = start.amin(dim=1)
        return Boxes(first, (start + size).amax(dim=1) - first)

    @staticmethod
    def _sides(boxes: Boxes) -> Int[Tensor, " item"]:
        ladder = torch.tensor(SIDES, device=boxes.size.device)
        longest = boxes.size.amax(dim=1)
        return ladder[torch.searchsorted(ladder, longest).clamp(max=len(SIDES) - 1)]

    @torch.no_grad()
    def of(
        self, neurons: Int[Tensor, "item neuron"], shares: Float[Tensor, "item neuron"] | None = None
    ) -> OwnResponse:
        """Return the responses of one neuron per item, or of several weighted by `shares` (None: their mean)."""
        neurons = neurons.to(self._population.device)
        shares = torch.full(neurons.shape, 1 / neurons.shape[1]) if shares is None else shares
        shares = shares.to(self._population.device, torch.float32)
        if any(part.readout is None for part in self.parts):
            whole = WholeStimulus(self.in_size, len(neurons))
            return OwnResponse(self, whole, [None] * len(self.parts), neurons, shares)
        readouts: list[Any] = [part.readout for part in self.parts]
        height, width = readouts[0].mask.shape[1:]
        places: Places
        if self.whole_because is None:
            boxes = self._around(neurons)
            side = int(self._sides(boxes).max())
            size = torch.tensor([min(side, height), min(side, width)], device=neurons.device)
            limit = torch.tensor([height, width], device=neurons.device) - size
            corner = (boxes.start - (size - boxes.size) // 2).clamp(min=0).minimum(limit)
            places = self._patches(corner, (self.window[1], int(size[0]), int(size[1])))
            owns = [self._own(member, neurons, corner, size) for member in range(len(self.parts))]
        else:
            places = WholeStimulus(self.in_size, len(neurons))
            corner = torch.zeros(len(neurons), 2, dtype=torch.long, device=neurons.device)
            sizes = [torch.tensor(readout.mask.shape[1:], device=neurons.device) for readout in readouts]
            owns = [self._own(member, neurons, corner, size) for member, size in enumerate(sizes)]
        return OwnResponse(self, places, owns, neurons, shares)

    def _patches(self, corner: Int[Tensor, "item 2"], length: Triple) -> CorePatches:
        steps = self.parts[0].steps
        assert steps is not None
        return CorePatches(steps, self.in_size, corner, self.window[0], length)

    def _own(
        self,
        member: int,
        neurons: Int[Tensor, "item neuron"],
        corner: Int[Tensor, "item 2"],
        size: Int[Tensor, " 2"],
    ) -> _Own:
        readout: Any = self.parts[member].readout
        width = readout.mask.shape[2]
        rows, columns = (corner[:, axis, None] + torch.arange(int(size[axis]), device=corner.device) for axis in (0, 1))
        pixel = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
        mask = readout.mask.flatten(1)[neurons]  # (item, neuron, pixel)
        index = pixel[:, None].expand(-1, neurons.shape[1], -1)
        weights = readout.weights[neurons].transpose(1, 2)
        outside = mask.scatter(2, index, 0.0)
        one, zero = torch.ones_like(readout.bias), torch.zeros_like(readout.bias)
        return _Own(
            mask=mask.gather(2, index).transpose(1, 2).contiguous(),
            weights=weights,
            bias=readout.bias[neurons],
            beyond=self._drive_at_grey(member, outside, weights),
            gain=(one if readout.gain is None else readout.gain)[neurons],
            offset=(zero if readout.offset is None else readout.offset)[neurons],
        )

    def _drive_at_grey(
        self, member: int, mask: Float[Tensor, "item neuron pixel"], weights: Float[Tensor, "item channel neuron"]
    ) -> Float[Tensor, "item time neuron"]:
        if not bool(mask.any()):
            return mask.new_zeros(len(mask), self.window[1], mask.shape[1])
        grey = torch.zeros(1, self._population.frame_shape[0], *self.in_size, device=mask.device)
        readout: Any = self.parts[member].readout
        corner = torch.zeros(1, 2, dtype=torch.long, device=mask.device)
        everywhere = self._patches(corner, (self.window[1], *readout.mask.shape[1:]))
        with frozen(self.parts[member].model), torch.no_grad():
            maps = self.maps(member, self.shown_to(member, everywhere.cut(grey)), everywhere)[0]
        seen = torch.einsum("ctp,inp->ictn", maps.flatten(2), mask)
        return (seen * weights[:, :, None]).sum(dim=1)

    def shown_to(self, member: int, contrast: Tensor) -> Tensor:
        """Return a stimulus in a member's normalisation."""
        factor, offset = self._normalisation[member]
        return contrast * factor + offset

    def maps(self, member: int, shown: Tensor, places: Places) -> Float[Tensor, "item feature time height width"]:
        """Return the core's output in the window, for patches in a member's normalisation."""
        model, steps, _ = self.parts[member]
        if isinstance(places, CorePatches):
            return places.run(shown, steps)
        session = self._population.session
        maps = model.core(shown, data_key=session) if model.core.session_dependent else model.core(shown)
        return maps[:, :, self.window[0] : sum(self.window)]

    def full(self, member: int, shown: Tensor) -> Float[Tensor, "item time neuron"]:
        """Return the responses of all neurons in the window."""
        response = respond_typically(self.parts[member].model, shown, self._population.session)
        return response[:, self.window[0] : sum(self.window)]


def _normalisations(population: Population) -> list[tuple[float, float]]:
    """Return factor and offset from contrast to each member's normalisation."""
    first, *_ = infos = [model.data_info for model in population.models]
    mean, std = float(first.get("stim_mean", 0.0)), float(first.get("stim_std", 1.0))
    own = [(float(info.get("stim_mean", 0.0)), float(info.get("stim_std", 1.0))) for info in infos]
    return [(population.contrast_std * std / own_std, (mean - own_mean) / own_std) for own_mean, own_std in own]


def _parts(model: BaseCoreReadout, session: str) -> _Parts:
    whole: Any = model
    if type(whole.readout).forward is not MultiReadoutBase.forward:
        return _Parts(model, None, None)
    if type(whole).forward is BaseCoreReadout.forward:
        return _Parts(model, core_steps(model.core, session), pooled_readout(whole.readout[session]))
    if type(whole).forward is ImageCoreReadout.forward and session not in whole.modulator:
        return _image_parts(whole, session)
    return _Parts(model, None, None)


@torch.no_grad()
def _image_parts(model: Any, session: str) -> _Parts:
    context = typical_context(model, session, 1, 1)
    planes = context["behaviour"][0, 0] if "behaviour" in context else None
    shift = model.shifter[session](context["pupil_center"][:, 0])[0] if session in model.shifter else None
    steps, readout = core_steps(model.core, session, planes), pooled_readout(model.readout[session], shift)
    if steps is None or readout is None:
        return _Parts(model, None, None)
    return _Parts(model, steps, readout._replace(nonlinearity=model.nonlinearity))


def _why_whole(parts: Sequence[_Parts]) -> str | None:
    for part in parts:
        if part.readout is None:
            name = type(part.model).__name__
            return f"the readouts of {name} are no weighted sums of masked feature maps, or something follows them"
        if part.steps is None:
            return f"{type(part.model.core).__name__} is no chain of convolutions"
    geometries = [[step.geometry for step in part.steps or ()] for part in parts]
    masks = [part.readout.mask.shape for part in parts if part.readout is not None]
    if any(geometry != geometries[0] for geometry in geometries) or any(mask != masks[0] for mask in masks):
        return "the members have different kernels or poolings"
    return None
