"""A convolutional gated recurrent unit over the frames of feature maps."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.padding import Padding, pad_sides, resolve_padding

LayerInput = Tensor | tuple[Tensor, str | None]


class SameSizeConv2d(nn.Conv2d):
    """A 2-D convolution that can keep the size for even kernels too: the extra zero lies below and right."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int, padding: Padding):
        super().__init__(in_channels, out_channels, kernel, groups=groups)
        self.sides = resolve_padding(padding, (1, kernel, kernel))
        nn.init.xavier_normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of the padded input."""
        return super().forward(pad_sides(x, self.sides))


class ConvGRUCell(nn.Module):
    """Convolutional GRU (Sinz et al. 2018, after Cho et al. 2014): gates see the input and the state around a pixel.

    Args:
        input_channels: channels of the input.
        rec_channels: channels of the state.
        input_kern: height and width of the filters on the input; any size of at least 1, even ones too.
        rec_kern: height and width of the filters on the state, which always keep its size.
        groups: of all convolutions.
        gamma_rec: weight of the mean absolute recurrent weight.
        pad_input: keep the size of the input; otherwise `input_kern - 1` pixels are lost.

    """

    def __init__(
        self,
        input_channels: int,
        rec_channels: int,
        input_kern: int,
        rec_kern: int,
        groups: int = 1,
        gamma_rec: float = 0.0,
        pad_input: bool = True,
    ):
        super().__init__()
        self.rec_channels = rec_channels
        self.gamma_rec = gamma_rec

        def on_input() -> SameSizeConv2d:
            return SameSizeConv2d(input_channels, rec_channels, input_kern, groups, pad_input)

        def on_state() -> SameSizeConv2d:
            return SameSizeConv2d(rec_channels, rec_channels, rec_kern, groups, True)

        self.reset_gate_input, self.reset_gate_hidden = on_input(), on_state()
        self.update_gate_input, self.update_gate_hidden = on_input(), on_state()
        self.out_gate_input, self.out_gate_hidden = on_input(), on_state()

    def penalty(self) -> Float[Tensor, ""]:
        """Return the mean absolute weight of the three recurrent filters."""
        gates = (self.reset_gate_hidden, self.update_gate_hidden, self.out_gate_hidden)
        return torch.stack([gate.weight.abs().mean() for gate in gates]).mean()

    def regularizer(self) -> Float[Tensor, ""]:
        """Return `gamma_rec` times `penalty`."""
        return self.gamma_rec * self.penalty()

    def bias_l1(self) -> Float[Tensor, ""]:
        """Return the mean absolute bias of the three recurrent filters."""
        gates = (self.reset_gate_hidden, self.update_gate_hidden, self.out_gate_hidden)
        return torch.stack([gate.bias.abs().mean() for gate in gates]).mean()  # type: ignore[union-attr]

    def init_state(
        self, input_: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch state out_height out_width"]:
        """Return the state before the first frame: zeros, in the size of what the gates make of the input."""
        return torch.zeros_like(self.reset_gate_input(input_))

    def step(
        self,
        gates: tuple[Tensor, Tensor, Tensor],
        state: Float[Tensor, "batch state height width"],
    ) -> Float[Tensor, "batch state height width"]:
        """Return the next state, given what the input contributes to the reset gate, update gate and candidate."""
        reset_input, update_input, out_input = gates
        reset = torch.sigmoid(reset_input + self.reset_gate_hidden(state))
        update = torch.sigmoid(update_input + self.update_gate_hidden(state))
        candidate = torch.tanh(out_input + self.out_gate_hidden(state * reset))
        return torch.lerp(state, candidate, update)

    def forward(
        self,
        input_: Float[Tensor, "batch channel height width"],
        prev_state: Float[Tensor, "batch state height width"] | None = None,
    ) -> Float[Tensor, "batch state out_height out_width"]:
        """Return the state after one frame; it was zero before the first."""
        gates = self.of_input(input_)
        return self.step(gates, torch.zeros_like(gates[0]) if prev_state is None else prev_state)

    def of_input(self, frames: Float[Tensor, "frame channel height width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the input contributes to the reset gate, the update gate and the candidate, of all frames."""
        return self.reset_gate_input(frames), self.update_gate_input(frames), self.out_gate_input(frames)


class GRU_Module(nn.Module):  # noqa: N801 (the published name)
    """A `ConvGRUCell` run over the frames of `(batch, channel, time, height, width)`.

    An output frame depends on its own and all earlier input frames of the window, and on the state before the first.
    """

    def __init__(
        self,
        input_channels: int,
        rec_channels: int,
        input_kern: int,
        rec_kern: int,
        groups: int = 1,
        gamma_rec: float = 0.0,
        pad_input: bool = True,
    ):
        super().__init__()
        self.gru = ConvGRUCell(input_channels, rec_channels, input_kern, rec_kern, groups, gamma_rec, pad_input)

    def forward(
        self, input_: LayerInput, state: Float[Tensor, "batch state out_height out_width"] | None = None
    ) -> Float[Tensor, "*batch state time out_height out_width"]:
        """Return the state after every frame, for a batch or for one stimulus without that axis; raises ValueError.

        The state before the first frame is zero where none is given.
        """
        x = input_ if isinstance(input_, Tensor) else input_[0]
        if x.ndim == 4:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if x.ndim != 5:
            raise ValueError(f"need (batch, channel, time, height, width), got {tuple(x.shape)}")
        # the input's share of the gates needs no loop; the recurrence does
        frames = x.transpose(1, 2)
        shares = [gate.unflatten(0, frames.shape[:2]).unbind(1) for gate in self.gru.of_input(frames.flatten(0, 1))]
        state = torch.zeros_like(shares[0][0]) if state is None else state
        states = []
        for gates in zip(*shares, strict=True):
            state = self.gru.step(gates, state)
            states.append(state)
        return torch.stack(states, dim=2)
