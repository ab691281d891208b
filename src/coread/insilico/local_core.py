"""A convolutional core computed only where it is looked at.

Output pixels depend on a patch of the stimulus that follows from kernels, paddings and poolings. A core is a chain of
steps without padding on such patches; where a patch reaches beyond the borders of a layer's input, zeros stand there,
as its padding would put them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coread.modules.core.base_core import Core, DummyCore, SimpleCoreWrapper
from coread.modules.core.stacked_core import Stacked2dCore
from coread.modules.layers.convolutions import TorchSTSeparableConv3D
from coread.modules.layers.padding import Sides
from coread.modules.layers.space_time_conv import SpaceTimeConv

Triple = tuple[int, int, int]  # of time, height and width
ONES: Triple = (1, 1, 1)
NONE: Triple = (0, 0, 0)


@dataclass(frozen=True)
class Step:
    """A map whose output i sees inputs `stride * i - before` to that plus `kernel` along (time, height, width).

    `run` takes an input that has all of these and pads nothing; `before` and `after` are the zeros that belong around
    the whole input. A negative `before` skips inputs.
    """

    run: Callable[[Tensor], Tensor]
    kernel: Triple = ONES
    before: Triple = NONE
    after: Triple = NONE
    stride: Triple = ONES

    @property
    def geometry(self) -> tuple[Triple, Triple, Triple, Triple]:
        """What decides which inputs an output sees."""
        return self.kernel, self.before, self.after, self.stride

    def output_size(self, size: Triple) -> Triple:
        """Return the size of the output of a whole input."""
        parts = zip(size, *self.geometry, strict=True)
        time, height, width = ((n + before + after - k) // stride + 1 for n, k, before, after, stride in parts)
        return time, height, width


class Span(NamedTuple):
    """A stretch of an axis that begins at `scale * corner + offset`, `corner` being where an item's output begins."""

    scale: int
    offset: int
    length: int

    def seen_through(self, kernel: int, before: int, stride: int) -> "Span":
        """Return the stretch of inputs that this stretch of outputs sees."""
        return Span(self.scale * stride, self.offset * stride - before, stride * (self.length - 1) + kernel)

    def within(self, size: int) -> "Span":
        """Return all of an axis instead of a stretch that is no shorter."""
        return Span(0, 0, size) if self.length >= size else self

    def positions(self, corner: Int[Tensor, " item"]) -> Int[Tensor, "item position"]:
        """Return the places along the axis."""
        start = self.scale * corner + self.offset
        return start[:, None] + torch.arange(self.length, device=corner.device)


@dataclass
class _Approach:
    """From the patch that a layer was computed on to the one that the next step needs, zeros beyond the borders."""

    padding: list[int]  # along width, height, time as F.pad takes it
    gathers: list[tuple[int, Int[Tensor, "item position"]]]
    inside: Float[Tensor, "item 1 time height width"] | None

    def __call__(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding)
        for axis, positions in self.gathers:
            shape = [len(x), 1, 1, 1, 1]
            shape[axis] = positions.shape[1]
            full = [*x.shape[:axis], positions.shape[1], *x.shape[axis + 1 :]]
            x = x.gather(axis, positions.reshape(shape).expand(full))
        return x if self.inside is None else x * self.inside

    def select(self, kept: Int[Tensor, " kept"]) -> "_Approach":
        gathers = [(axis, positions[kept]) for axis, positions in self.gathers]
        return _Approach(self.padding, gathers, None if self.inside is None else self.inside[kept])


def _approach(
    have: Sequence[Span], need: Sequence[Span], size: Triple, corners: Int[Tensor, "item 3"], *, masked: bool
) -> _Approach:
    padding: list[int] = []
    gathers: list[tuple[int, Tensor]] = []
    inside: list[Tensor] = []
    for axis, (span, wanted, n) in enumerate(zip(have, need, size, strict=True)):
        positions = wanted.positions(corners[:, axis])
        within = (positions >= 0) & (positions < n)
        shorter = span != wanted  # the whole axis is there, another stretch is needed
        if shorter and wanted.scale:
            gathers.append((axis + 2, positions.clamp(0, n - 1)))
        if shorter and not wanted.scale:
            padding = [-wanted.offset, wanted.offset + wanted.length - n, *padding]
        else:
            padding = [0, 0, *padding]
        checked = bool(wanted.scale) if shorter else masked
        inside.append(within if checked else torch.ones_like(within))
    return _Approach(padding, gathers, _mask(inside))


def _mask(inside: Sequence[Tensor]) -> Float[Tensor, "item 1 time height width"] | None:
    """Return 1 where all axes (item, position) are inside and 0 elsewhere; None if all is inside."""
    if all(bool(axis.all()) for axis in inside):
        return None
    time, height, width = inside
    return (time[:, :, None, None] & height[:, None, :, None] & width[:, None, None, :])[:, None].float()


class CorePatches:
    """The steps of a core on patches of the stimulus that belong to equally large patches of its output.

    Where a patch would be no smaller than a layer's whole input, the whole input is computed.

    Args:
        steps: of the core.
        in_size: (time, height, width) of the whole stimulus.
        corners: row and column where each item's patch of the output begins.
        first_bin: first bin of the output that is computed.
        length: (time, height, width) of the patches of the output.

    """

    def __init__(
        self,
        steps: Sequence[Step],
        in_size: Triple,
        corners: Int[Tensor, "item 2"],
        first_bin: int,
        length: Triple,
    ):
        self.steps = steps
        self.in_size = in_size
        sizes = [in_size]
        for step in steps:
            sizes.append(step.output_size(sizes[-1]))
        starts = torch.cat([torch.zeros_like(corners[:, :1]), corners], dim=1)
        have: list[Span] = [Span(0, first_bin, length[0])]
        have += [Span(1, 0, n).within(whole) for n, whole in zip(length[1:], sizes[-1][1:], strict=True)]
        approaches = []
        for number, step, size in reversed(list(zip(range(len(steps)), steps, sizes, strict=False))):
            axes = zip(have, step.kernel, step.before, step.stride, strict=True)
            need = [span.seen_through(k, before, stride) for span, k, before, stride in axes]
            have = [span.within(n) for span, n in zip(need, size, strict=True)]
            masked = number == 0 or any(n > 0 for n in (*step.before, *step.after))
            approaches.append(_approach(have, need, size, starts, masked=masked))
        self._approaches = approaches[::-1]
        self.in_length: Triple = (have[0].length, have[1].length, have[2].length)
        self._positions = [span.positions(starts[:, axis]) for axis, span in enumerate(have)]
        axes_inside = [(p >= 0) & (p < n) for p, n in zip(self._positions, in_size, strict=True)]
        self._inside = _mask(axes_inside)

    def select(self, kept: Int[Tensor, " kept"]) -> "CorePatches":
        """Return the patches of some items."""
        chosen = copy.copy(self)
        chosen._approaches = [approach.select(kept) for approach in self._approaches]
        chosen._positions = [positions[kept] for positions in self._positions]
        chosen._inside = None if self._inside is None else self._inside[kept]
        return chosen

    @property
    def in_starts(self) -> Int[Tensor, "item 3"]:
        """First frame, row and column of every item's patch of the stimulus; negative beyond its borders."""
        return torch.stack([positions[:, 0] for positions in self._positions], dim=1)

    def run(
        self, patches: Float[Tensor, "item channel time height width"], steps: Sequence[Step] | None = None
    ) -> Float[Tensor, "item feature out_time out_height out_width"]:
        """Return the output of every item's patch; `steps` are those of another core of the same geometry."""
        x = patches
        for step, approach in zip(self.steps if steps is None else steps, self._approaches, strict=True):
            x = step.run(approach(x))
        return x

    def cut(
        self, stimuli: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel patch_time patch_height patch_width"]:
        """Return every item's patch of whole stimuli (one for all, or one per item), zeros beyond their borders."""
        time, height, width = (
            positions.clamp(0, size - 1) for positions, size in zip(self._positions, self.in_size, strict=True)
        )
        item = torch.arange(len(time), device=time.device) if len(stimuli) > 1 else torch.zeros_like(time[:, 0])
        cut = stimuli[
            item[:, None, None, None], :, time[:, :, None, None], height[:, None, :, None], width[:, None, None, :]
        ]
        return self.clean(cut.movedim(-1, 1))

    def clean(
        self, patches: Float[Tensor, "item channel time height width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return the patches with zeros beyond the borders of the stimulus."""
        return patches if self._inside is None else patches * self._inside

    def paste(
        self, patches: Float[Tensor, "item channel patch_time patch_height patch_width"]
    ) -> Float[Tensor, "item channel time height width"]:
        """Return whole stimuli with the patches in their places and zeros elsewhere."""
        n_items, n_channels = patches.shape[:2]
        time, height, width = self._positions
        place = (time[:, :, None, None] * self.in_size[1] + height[:, None, :, None]) * self.in_size[2]
        place = place + width[:, None, None, :]
        n_values = self.in_size[0] * self.in_size[1] * self.in_size[2]
        if self._inside is not None:  # what is beyond the borders goes to a place of its own, which is dropped
            place = torch.where(self._inside[:, 0] > 0, place, n_values)
        flat = patches.new_zeros(n_items, n_channels, n_values + 1)
        index = place.reshape(n_items, 1, -1).expand(-1, n_channels, -1)
        flat.scatter_(2, index, patches.flatten(2))
        return flat[..., :-1].reshape(n_items, n_channels, *self.in_size)


def core_steps(core: Core, session: str, planes: Float[Tensor, " variable"] | None = None) -> list[Step] | None:
    """Return the steps of a core for a session; None for a core that is no chain of convolutions.

    `planes` are further channels that are the same in all pixels (behaviour). The steps share the core's weights.
    """
    if type(core) is DummyCore:
        return [Step(_identity, before=(-core.lag, 0, 0))]
    if type(core) is SimpleCoreWrapper:
        return _simple_steps(core, session)
    if type(core) is Stacked2dCore and core.skip <= 1 and core.stack == [len(core.features) - 1]:
        return _stacked_steps(core, planes)
    return None


def _identity(x: Tensor) -> Tensor:
    return x


def _simple_steps(core: SimpleCoreWrapper, session: str) -> list[Step]:
    steps = []
    if core.color_squashing_layer is not None:
        steps.append(Step(core.color_squashing_layer))
    if core.downsample_input_kernel_size is not None:
        size: Any = core.downsample_input_kernel_size
        steps.append(Step(partial(F.avg_pool3d, kernel_size=size), kernel=size, stride=size))
    for layer in core.features:
        for name, module in layer.named_children():
            if name == "conv":
                steps += _conv_steps(module, session)  # type: ignore[arg-type]
            elif name == "pool":
                steps.append(Step(module, kernel=(1, 2, 2), stride=(1, 2, 2)))
            else:
                steps.append(Step(module))
    return [*steps, Step(_identity, before=(-core.cut_first_n_frames, 0, 0))]


def _conv_steps(conv: SpaceTimeConv, session: str) -> list[Step]:
    if isinstance(conv, TorchSTSeparableConv3D):  # published padding puts zeros before its second part too
        speed = conv.log_speed(session)
        scale = torch.exp(conv._log_speed_default if speed is None else speed).detach()
        time, height, width = conv.kernel_size
        return [
            Step(conv.space_conv, (1, height, width), *_before_after(conv.space_sides)),
            Step(lambda x: scale * conv.time_conv(x), (time, 1, 1), *_before_after(conv.time_sides)),
        ]
    unpadded = copy.copy(conv)  # of the same weights
    unpadded.sides = ((0, 0), (0, 0), (0, 0))
    return [Step(lambda x: unpadded((x, session)), conv.kernel_size, *_before_after(conv.sides))]


def _before_after(sides: Sides) -> tuple[Triple, Triple]:
    (time, height, width) = sides
    return (time[0], height[0], width[0]), (time[1], height[1], width[1])


def _stacked_steps(core: Stacked2dCore, planes: Tensor | None) -> list[Step]:
    steps = [] if planes is None else [Step(partial(_with_planes, planes))]
    for layer in core.features:
        for name, module in layer.named_children():
            if name == "ds_conv":
                part: Any = module
                steps += [Step(partial(_per_frame, part.in_depth_conv)), _conv2d_step(part.spatial_conv)]
                steps += [Step(partial(_per_frame, part.out_depth_conv))]
            elif name == "conv":
                steps.append(_conv2d_step(module))  # type: ignore[arg-type]
            else:
                steps.append(Step(partial(_per_frame, module)))
    return steps


def _with_planes(planes: Float[Tensor, " variable"], x: Tensor) -> Tensor:
    expanded = planes.detach()[None, :, None, None, None].expand(len(x), -1, *x.shape[2:])
    return torch.cat([x, expanded.to(x.dtype)], dim=1)


def _conv2d_step(conv: nn.Conv2d) -> Step:
    if isinstance(conv.padding, str):
        raise TypeError(f"a convolution padded by pixels is needed, got padding {conv.padding!r}")
    (pad_y, pad_x), (dilation_y, dilation_x) = conv.padding, conv.dilation
    reach = (1, (conv.kernel_size[0] - 1) * dilation_y + 1, (conv.kernel_size[1] - 1) * dilation_x + 1)
    padding = (0, int(pad_y), int(pad_x))
    unpadded = copy.copy(conv)
    unpadded.padding = (0, 0)
    return Step(partial(_per_frame, unpadded), reach, padding, padding)


def _per_frame(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer of images makes of every frame."""
    n_items, _, time = x.shape[:3]
    if time == 1:
        return module(x.squeeze(2)).unsqueeze(2)
    return module(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (n_items, time)).transpose(1, 2)
