"""The stacked core of the SENSORIUM baselines: two-dimensional convolutions of single images."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coread.modules.core.base_core import Core
from coread.modules.layers.regularizers import GaussianLaplaceL2, LaplaceL2norm
from coread.modules.recompute import elu_of_recomputed, in_parts
from coread.modules.vmapped import computes_several

FILTERED_AT_ONCE = 5 * 2**18  # values; what is in between stays in the processor's cache
INPUT_REGULARIZERS = ("LaplaceL2norm", "GaussianLaplaceL2")


class DepthSeparableConv2d(nn.Module):
    """A mixing of channels, one spatial filter per channel, and a second mixing of channels (Chollet 2017).

    `bias` gives an offset to each of the three.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int, dilation: int = 1, bias: bool = False
    ):
        super().__init__()
        self.in_depth_conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.spatial_conv = nn.Conv2d(
            out_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=bias, groups=out_channels
        )
        self.out_depth_conv = nn.Conv2d(out_channels, out_channels, 1, bias=bias)

    def forward(self, x: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image out_channel h w"]:
        """Return the filtered maps."""
        return self.out_depth_conv(self.spatial_conv(self.in_depth_conv(x)))

    def in_parts(self, x: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image out_channel h w"]:
        """Return the filtered maps without keeping those between the filters for the gradient (`in_parts`)."""
        names, weights = zip(*self.named_parameters(), strict=True)

        def filtered(images: Tensor, *values: Tensor) -> Tensor:
            return torch.func.functional_call(self, dict(zip(names, values, strict=True)), (images,))

        return in_parts(filtered, max(1, FILTERED_AT_ONCE // max(1, x[0].numel())), (x,), *weights)


class Stacked2dCore(Core):
    """Layers of convolution, batch norm and ELU whose feature maps can be stacked (Lurz 2021, Willeke et al. 2022).

    Every frame is an image of its own, so there is no lag. Parameters have the names of neuralpredictors. Weights start
    Xavier-normal, offsets at zero.

    Args:
        input_channels: channels of the image, with those of the behaviour if it enters as planes.
        hidden_channels: feature maps of every layer, or one number for all.
        input_kern: height and width in pixels of the filters of layer 0.
        hidden_kern: the same for the other layers, or one number per layer.
        layers: number of layers.
        gamma_hidden: weight of the group sparsity of the hidden filters; depth-separable ones have none.
        gamma_input: weight of the roughness of the filters of layer 0.
        skip: above 1, a layer sees the outputs of the last `skip` layers.
        final_nonlinearity: whether the last layer has an ELU.
        bias: offsets in the hidden convolutions, and in layer 0 where no batch norm follows it.
        momentum: weight of the present batch in the running statistics that evaluation mode uses. Published: 0.9, with
            which evaluation depends on little more than the last batch, of whatever session; 0.1 averages about ten.
        pad_input: keep the size of the image in layer 0 by padding with zeros.
        hidden_padding: zeros around the maps of the other layers, one number or one per layer; by default those that
            keep the size, which for an even kernel add one pixel per layer.
        batch_norm: normalise after every convolution.
        hidden_dilation: distance of neighbouring filter pixels in the hidden layers.
        laplace_padding: zeros around a filter before its roughness is taken; None keeps its size.
        input_regularizer: "LaplaceL2norm", or "GaussianLaplaceL2", which counts more far from the filter's centre.
        use_avg_reg: means instead of sums in the roughness.
        stack: layers whose maps are put out: a number n means `layers[n:]`, a list names them, None all.
        depth_separable: depth-separable convolutions in the hidden layers.
        linear: leave out all ELUs.
        recompute: in training, compute layers of a depth-separable core a second time for the gradient instead of
            keeping the maps between their parts. Changes no number but by rounding.

    Raises ValueError for settings that do not fit each other.

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int | Sequence[int],
        input_kern: int,
        hidden_kern: int | Sequence[int],
        layers: int = 3,
        gamma_hidden: float = 0.0,
        gamma_input: float = 0.0,
        skip: int = 0,
        final_nonlinearity: bool = True,
        bias: bool = False,
        momentum: float = 0.1,
        pad_input: bool = False,
        hidden_padding: int | Sequence[int] | None = None,
        batch_norm: bool = True,
        hidden_dilation: int = 1,
        laplace_padding: int | None = None,
        input_regularizer: str = "LaplaceL2norm",
        use_avg_reg: bool = False,
        stack: int | Sequence[int] | None = None,
        depth_separable: bool = False,
        linear: bool = False,
        recompute: bool = True,
    ):
        super().__init__()
        channels = _per_layer("hidden_channels", hidden_channels, layers)
        kernels = [input_kern, *_per_layer("hidden_kern", hidden_kern, layers - 1)]
        if skip > 1 and len(set(channels)) > 1:
            raise ValueError(f"skip {skip} needs the same hidden_channels in all layers, got {channels}")
        if gamma_hidden and (depth_separable or layers < 2):
            raise ValueError("gamma_hidden is the group sparsity of full hidden filters: 0 without such layers")
        if input_regularizer not in INPUT_REGULARIZERS:
            raise ValueError(
                f"input_regularizer {input_regularizer!r} is unknown, expected one of {list(INPUT_REGULARIZERS)}"
            )
        if gamma_input and laplace_padding == 0 and input_kern < 3:
            raise ValueError(f"gamma_input with laplace_padding 0 needs input_kern of at least 3, got {input_kern}")
        self.input_channels, self.pad_input, self.skip = input_channels, pad_input, skip
        self.gamma_input, self.gamma_hidden, self.use_avg_reg = gamma_input, gamma_hidden, use_avg_reg
        self.stack, self.hidden_channels = _stacked_layers(stack, layers), channels
        self.recompute = recompute and depth_separable
        # the persistent filter of the penalty stands in published state dicts
        self._input_weights_regularizer = (
            LaplaceL2norm(padding=laplace_padding)
            if input_regularizer == "LaplaceL2norm"
            else GaussianLaplaceL2(input_kern, padding=laplace_padding)
        )
        same = [((kernel - 1) * hidden_dilation + 1) // 2 for kernel in kernels[1:]]
        padding = same if hidden_padding is None else _per_layer("hidden_padding", hidden_padding, layers - 1)
        reach = [(kernel - 1) / 2 * (hidden_dilation if i else 1) for i, kernel in enumerate(kernels)]
        offset = sum(reach) - (input_kern // 2 if pad_input else 0) - sum(padding)
        self.spatial_offset = (offset, offset)
        self.features = nn.Sequential()
        for i in range(layers):
            layer: OrderedDict[str, nn.Module] = OrderedDict()
            if i == 0:
                layer["conv"] = nn.Conv2d(
                    input_channels,
                    channels[0],
                    input_kern,
                    padding=input_kern // 2 if pad_input else 0,
                    bias=bias and not batch_norm,
                )
            else:
                conv_class = DepthSeparableConv2d if depth_separable else nn.Conv2d
                layer["ds_conv" if depth_separable else "conv"] = conv_class(
                    min(skip, i) * channels[0] if skip > 1 else channels[i - 1],
                    channels[i],
                    kernels[i],
                    padding=padding[i - 1],
                    dilation=hidden_dilation,
                    bias=bias,
                )
            if batch_norm:
                layer["norm"] = nn.BatchNorm2d(channels[i], momentum=momentum)
            if not linear and (final_nonlinearity or i < layers - 1):
                layer["nonlin"] = nn.ELU(inplace=True)
            self.features.add_module(f"layer{i}", nn.Sequential(layer))
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw all filters Xavier-normal and set their offsets to zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def out_channels(self) -> int:
        """Number of feature maps that are put out."""
        return sum(self.hidden_channels[i] for i in self.stack)

    def forward(
        self,
        x: Float[Tensor, "image channel *time height width"],
        planes: Float[Tensor, "image variable"] | None = None,
    ) -> Float[Tensor, "image feature *time out_height out_width"]:
        """Return the feature maps of images, or of the frames of windows, each on its own.

        `planes` are values of further channels that are the same in all pixels, such as behaviour. Raises ValueError
        unless image and planes together have `input_channels`.
        """
        if x.dim() == 5:
            if planes is not None:
                raise ValueError("planes belong to images (image, channel, height, width), got windows")
            maps = self(x.transpose(1, 2).flatten(0, 1))
            return maps.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        given = x.shape[1] + (0 if planes is None else planes.shape[1])
        if given != self.input_channels:
            raise ValueError(f"the core takes {self.input_channels} channels, images and planes have {given}")
        outputs: list[Tensor] = []
        for layers in self._runs():
            seen = torch.cat(outputs[-min(self.skip, layers[0]) :], dim=1) if self.skip > 1 and outputs else x
            x = self._run(layers, seen, planes)
            outputs += [x] * len(layers)
        return outputs[self.stack[0]] if len(self.stack) == 1 else torch.cat([outputs[i] for i in self.stack], dim=1)

    def _runs(self) -> list[list[int]]:
        """Return runs of layers; where maps are made again for the gradient, only what a run ends with is kept."""
        single = [[i] for i in range(len(self.features))]
        alone = self.skip > 1 or 0 in self.stack or len(single) == 1
        return single if alone or not self._recomputes() else [[0, 1], *single[2:]]

    def _recomputes(self) -> bool:
        return self.recompute and self.training and torch.is_grad_enabled() and not computes_several()

    def _run(self, layers: list[int], x: Tensor, planes: Tensor | None) -> Tensor:
        if not self._recomputes():
            return self._run_once(layers, x, planes)
        run = partial(self._run_once, layers)
        return checkpoint(
            run, x, planes, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts_of_both_passes
        )

    def _run_once(self, layers: list[int], x: Tensor, planes: Tensor | None) -> Tensor:
        for i in layers:
            convolution, *others = self.features[i].children()
            if i == 0:
                x = self._first_convolution(x, planes)
            elif isinstance(convolution, DepthSeparableConv2d) and self._recomputes():
                x = convolution.in_parts(x)
            else:
                x = convolution(x)
            for module in others:
                overwrites = isinstance(module, nn.ELU) and self._recomputes()
                x = elu_of_recomputed(x) if overwrites else module(x)
        return x

    def _contexts_of_both_passes(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _running_statistics_kept(self)

    def _first_convolution(self, x: Tensor, planes: Tensor | None) -> Tensor:
        """Return the maps of layer 0; without padding, a plane adds the same to all pixels and is not convolved."""
        conv: Any = self.features[0].conv
        if planes is not None and self.pad_input:
            x = torch.cat([x, planes[:, :, None, None].expand(-1, -1, *x.shape[2:]).to(x.dtype)], dim=1)
            planes = None
        n_channels = x.shape[1]
        x = F.conv2d(x, conv.weight[:, :n_channels], conv.bias, padding=conv.padding)
        # on the CPU gradients of depth-wise filters are twice as fast with channels last
        if x.device.type == "cpu" and not computes_several():
            x = x.contiguous(memory_format=torch.channels_last)
        if planes is not None:
            x = x + F.linear(planes.to(x.dtype), conv.weight[:, n_channels:].sum((2, 3)))[:, :, None, None]
        return x

    def laplace(self) -> Float[Tensor, ""]:
        """Return the roughness of the filters of layer 0 relative to their power."""
        weight: Tensor = self.features[0].conv.weight  # type: ignore[union-attr,assignment]
        roughness = self._input_weights_regularizer(weight)
        if not self.use_avg_reg:
            return roughness
        # a ratio of means differs from one of sums only where the filtered image has another size
        kept = [size - 2 + 2 * self._input_weights_regularizer.laplace.padding_size for size in weight.shape[2:]]
        return roughness * (weight.shape[2] * weight.shape[3] / (kept[0] * kept[1]))

    def group_sparsity(self) -> Float[Tensor, ""]:
        """Return the mean norm of the hidden filters, averaged over layers; raises TypeError if depth-separable."""
        hidden: list[Any] = [layer.conv for layer in list(self.features)[1:] if hasattr(layer, "conv")]
        if not hidden:
            raise TypeError("group sparsity is of full hidden filters, the core has none")
        norms = [torch.linalg.vector_norm(conv.weight, dim=(2, 3)).mean() for conv in hidden]
        return torch.stack(norms).mean()

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted penalties whose weight is not zero, by the name of the weight without `gamma_`."""
        terms = {"input": (self.gamma_input, self.laplace), "hidden": (self.gamma_hidden, self.group_sparsity)}
        return {name: gamma * term() for name, (gamma, term) in terms.items() if gamma}


def _per_layer(name: str, value: int | Sequence[int], n_layers: int) -> list[int]:
    """Return one number per layer; raises ValueError for a list of another length."""
    values = [int(value)] * n_layers if isinstance(value, int) else [int(item) for item in value]
    if len(values) != n_layers:
        raise ValueError(f"{name} must be one number or {n_layers}, got {values}")
    return values


def _stacked_layers(stack: int | Sequence[int] | None, n_layers: int) -> list[int]:
    """Return the numbers of the layers that are put out; raises ValueError if there is none or one is missing."""
    numbers = list(range(n_layers))
    chosen = numbers if stack is None else numbers[stack:] if isinstance(stack, int) else list(stack)
    if not chosen or not all(-n_layers <= i < n_layers for i in chosen):
        raise ValueError(f"stack {stack} chooses none, or more than there are, of {n_layers} layers")
    return [numbers[i] for i in chosen]


@contextmanager
def _running_statistics_kept(layer: nn.Module) -> Iterator[None]:
    """Let batch norm remember nothing of a second pass over a batch that it has seen already."""
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # of the present batch in the running statistics
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
