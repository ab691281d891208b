"""What the space-time convolutions share: sizes, lag and the temporal stretch of each session."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coread.modules.layers.padding import Sides
from coread.modules.weight_figures import weight_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LayerInput = Tensor | tuple[Tensor, str | None]


class SpaceTimeConv(nn.Module):
    """What the four convolutions share: sizes, lag and the temporal stretch (log speed) of each session.

    `log_speed_dict` maps sessions to the log of a temporal stretch; a Parameter there is trained.
    """

    sides: Sides

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        log_speed_dict: Mapping[str, float | Tensor],
        kernel_size: tuple[int, int, int],
        stride: int = 1,
        num_scans: int = 1,
    ):
        super().__init__()
        if (stride, num_scans) != (1, 1):
            raise ValueError(
                f"stride and num_scans can only be 1, as in every published model: {stride=}, {num_scans=}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.lag = kernel_size[0] - 1
        self.log_speed_sessions: tuple[str, ...] = ()
        self.add_log_speeds(log_speed_dict)

    def add_log_speeds(self, log_speed_dict: Mapping[str, float | Tensor]) -> None:
        """Take the log speeds of further sessions; a Parameter is trained."""
        sessions = tuple(key.removeprefix("log_speed_") for key in log_speed_dict)
        self.log_speed_sessions += sessions
        for session, value in zip(sessions, log_speed_dict.values(), strict=True):
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"log_speed_{session}", value)
            else:
                self.register_buffer(f"log_speed_{session}", torch.as_tensor(value, dtype=torch.float32).reshape(1))

    def log_speed(self, data_key: str | None) -> Tensor | None:
        """Return a session's log speed; None, for the default, where the session has none."""
        return getattr(self, f"log_speed_{data_key}") if data_key in self.log_speed_sessions else None

    @property
    def padding_before(self) -> tuple[int, int]:
        """Rows of zeros above and columns of zeros left of the input."""
        return self.sides[1][0], self.sides[2][0]

    @property
    def weight_grouped(self) -> Float[Tensor, "out in *kernel"]:
        """Weights whose input groups the sparsity penalties compare."""
        weight: Tensor = self.weight_spatial  # type: ignore[assignment]
        return weight

    def filters(self) -> Float[Tensor, "out in time height width"]:
        """Return the dense filters between every pair of channels."""
        return self.conv.weight  # type: ignore[union-attr, return-value]

    def plot_weights(
        self,
        in_channel: int,
        out_channel: int,
        add_titles: bool = True,
        remove_ticks: bool = False,
        spatial_weight_center_positive: bool = True,
    ) -> "Figure":
        """Return a figure of the filter between two channels: its spatial part left, its time course right.

        It is the best separable filter; the spatial part peaks upwards or, without `spatial_weight_center_positive`,
        the time course does. Raises IndexError for channels that there are not.
        """
        filter_ = self.filters()[out_channel, in_channel].detach().float().cpu().numpy()
        title = f"input {in_channel}, output {out_channel}" if add_titles else ""
        draw = weight_figures().draw_filter
        figure: Figure = draw(filter_, title, ticks=not remove_ticks, spatial_peak=spatial_weight_center_positive)
        return figure

    def save_weight_visualizations(
        self, folder_path: str | Path, file_format: str = "jpg", state_suffix: str = ""
    ) -> None:
        """Draw every filter as `<input channel>_<output channel>[_<state_suffix>].<file_format>` in a folder."""
        for in_channel in range(self.in_channels):
            for out_channel in range(self.out_channels):
                figure = self.plot_weights(in_channel, out_channel)
                weight_figures().save_figure(
                    figure, folder_path, f"{in_channel}_{out_channel}", file_format, state_suffix
                )

    @staticmethod
    def _unpack(input_: LayerInput) -> tuple[Tensor, str | None]:
        return (input_, None) if isinstance(input_, Tensor) else input_
