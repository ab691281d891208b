"""The omitted stimulus response: what a cell says when a periodic flash does not come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult, Quantity
from coread.insilico.population import Population
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style

N_EXAMPLES = 4


@dataclass(frozen=True)
class OmittedStimulus:
    """Full-field flashes at several periods, `n_flashes` each, after which the next one is omitted.

    Some retinal ganglion cells respond to the flash that is missing, at a fixed time after it was due. Their latency
    since the last flash grows with the period, with slope 1; a response that follows the last flash itself has slope 0
    (Schwartz, Harris, Shrom & Berry 2007, Nat. Neurosci. 10:552). The arguments stand in the YAML with their units.
    """

    contrast: float
    flash_s: float
    periods_s: Sequence[float]
    n_flashes: int
    grey_s: float
    after_s: float
    uncertain_sd: float

    def run(self, population: Population, neurons: Int[np.ndarray, "neuron"]) -> ExperimentResult:
        """Return responses around the omission, its strength and latency; raises ValueError without a frame rate."""
        if not np.isfinite(population.rate_hz):
            raise ValueError("flashes have a period in seconds: the model does not know its bins per second")
        period = np.unique(np.rint(np.multiply(self.periods_s, population.rate_hz)).astype(int))
        shown, last = self._series(population, period)
        channels, height, width = population.frame_shape
        stimulus = torch.as_tensor(shown, dtype=torch.float32)[:, None, :, None, None]
        response = population.respond(stimulus.expand(-1, channels, -1, height, width))[..., neurons].cpu().numpy()
        time = np.arange(response.shape[2]) + population.lag - last  # in bins since the last flash
        members = measure(response, time, period)
        table = population.neurons.iloc[neurons].reset_index(drop=True)
        for name, value in measure(response.mean(axis=0, keepdims=True), time, period).items():
            table[name] = value[0]
            table[f"{name}_sd_members"] = members[name].std(axis=0, ddof=1) if len(response) > 1 else np.nan
        table["latency_slope_uncertain"] = table["latency_slope_sd_members"] > self.uncertain_sd
        kept = time >= -2 * period.max()
        return ExperimentResult(
            table,
            {
                "response": Quantity(
                    np.moveaxis(response[:, :, kept], 3, 0), ("neuron", "member", "period", "time"), population.unit
                ),
                "contrast": Quantity(shown[:, population.lag :][:, kept], ("period", "time")),
            },
            {
                "period": Quantity(period / population.rate_hz, ("period",), "s"),
                "time": Quantity(time[kept] / population.rate_hz, ("time",), "s"),
            },
        )

    def _series(
        self, population: Population, period: Int[np.ndarray, "period"]
    ) -> tuple[Float[np.ndarray, "period time"], int]:
        """Return the contrast of every series over time, and the bin in which the last flash of each begins."""
        flash, grey, after = (max(1, round(s * population.rate_hz)) for s in (self.flash_s, self.grey_s, self.after_s))
        if period.min() <= flash:
            raise ValueError(f"a period of {period.min()} bins leaves no grey after a flash of {flash}")
        last = population.lag + grey + (self.n_flashes - 1) * int(period.max())
        shown = np.zeros((len(period), last + after))
        begins = last - period[:, None] * np.arange(self.n_flashes)
        shown[np.arange(len(period))[:, None, None], begins[..., None] + np.arange(flash)] = self.contrast
        return shown, last

    def draw(self, results: Mapping[str, ExperimentResult]) -> Mapping[str, Drawing]:
        """Draw the cells that respond most to an omission, and strength against slope of all."""
        table = pd.concat([result.table for result in results.values()], ignore_index=True)
        shown = table.sort_values("omitted_response", ascending=False, kind="stable").head(N_EXAMPLES)
        with paper_style():
            figure = Figure(figsize=(FULL_WIDTH_IN, 3.0), layout="constrained")
            halves: Any = figure.subfigures(1, 2, width_ratios=(1.7, 1))
            left, right = halves
            grid = left.subplots(N_EXAMPLES, 1, sharex=True, squeeze=False)[:, 0]
            for axes, row in zip(grid, shown.itertuples(), strict=False):
                result = results[str(row.session)]
                _draw_traces(axes, result, int(np.flatnonzero(result.table["neuron"] == row.neuron)[0]))
                axes.set_title(f"{row.session}, {getattr(row, 'unit_id', row.neuron)}", fontsize=6.5, pad=2)
            for axes in grid[len(shown) :]:
                axes.set_visible(False)
            grid[0].legend(loc="upper right", ncols=4, handlelength=1.0, borderpad=0.0)
            grid[len(shown) - 1].set_xlabel("time since the last flash (s)")
            left.supylabel(f"response ({next(iter(results.values())).arrays['response'].unit})", fontsize=7)
            _draw_slopes(right.subplots(), table)
        return {"omitted_stimulus": Drawing(figure, _caption(table, len(shown)))}


def measure(
    response: Float[np.ndarray, "member period time neuron"],
    time: Int[np.ndarray, "time"],
    period: Int[np.ndarray, "period"],
) -> dict[str, Float[np.ndarray, "member neuron"]]:
    """Return strength and slope of the response to an omission; `time` and `period` are in bins, time 0 the last flash.

    `omitted_response` is the highest peak after the next flash was due, above the response to grey and relative to
    that of a flash, averaged over periods (0 where there is no peak). `latency_slope` is the slope of the time of the
    last peak of at least half that height on the period: NaN where fewer than two periods have one. The last, because
    slow cells answer several flashes after the series has ended.
    """
    peak = np.zeros(response.shape, dtype=bool)
    inner = response[:, :, 1:-1]
    peak[:, :, 1:-1] = (inner > response[:, :, :-2]) & (inner >= response[:, :, 2:])
    peak &= (time > period[:, None])[None, :, :, None]  # a decay from before the flash was due is no peak
    rise = response - response[:, :, :1]  # the first bin saw nothing but grey
    height = np.where(peak, rise, -np.inf).max(axis=2)
    found = height > 0
    last = response.shape[2] - 1 - (peak & (rise >= 0.5 * height[:, :, None]))[:, :, ::-1].argmax(axis=2)
    in_cycle = ((time < 0) & (time >= -period[:, None]))[None, :, :, None]
    flash = np.where(in_cycle, rise, -np.inf).max(axis=2)
    strength = np.divide(height, flash, out=np.full(flash.shape, np.nan), where=found & (flash > 0))
    latency = np.where(found, time[last], np.nan)
    return {"omitted_response": np.where(found, strength, 0.0).mean(axis=1), "latency_slope": _slope(period, latency)}


def _slope(
    x: Int[np.ndarray, "period"], y: Float[np.ndarray, "member period neuron"]
) -> Float[np.ndarray, "member neuron"]:
    """Return the least-squares slope of y on x over what is not NaN; NaN for fewer than two points."""
    known = np.isfinite(y)
    n = np.maximum(known.sum(axis=1, keepdims=True), 1)
    dx = np.where(known, x[:, None] - (known * x[:, None]).sum(axis=1, keepdims=True) / n, 0.0)
    variance = np.square(dx).sum(axis=1)
    return np.divide(
        (dx * np.nan_to_num(y)).sum(axis=1), variance, out=np.full(variance.shape, np.nan), where=variance > 0
    )


def _draw_traces(axes: Axes, result: ExperimentResult, row: int) -> None:
    """Draw one neuron's responses to all series: mean and, as a band, range of the members."""
    time, periods = result.axes["time"].data, result.axes["period"].data
    response = result.arrays["response"].data[row]
    for index, (period, color) in enumerate(zip(periods, COLORS, strict=False)):
        axes.plot(time, response[:, index].mean(axis=0), color=color, label=f"{1 / period:.3g} Hz")
        axes.fill_between(
            time, response[:, index].min(axis=0), response[:, index].max(axis=0), color=color, alpha=0.2, linewidth=0
        )
        axes.axvline(period, color=color, linewidth=0.6, linestyle=":")
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.locator_params(axis="y", nbins=3)


def _draw_slopes(axes: Axes, table: pd.DataFrame) -> None:
    sure = ~table["latency_slope_uncertain"].to_numpy(bool)
    for chosen, face in ((sure, COLORS[0]), (~sure, "none")):
        axes.scatter(
            table["omitted_response"][chosen],
            table["latency_slope"][chosen],
            s=10,
            facecolors=face,
            edgecolors=COLORS[0],
            linewidths=0.6,
        )
    for slope, meaning in ((0, "follows the last flash"), (1, "follows the omitted flash")):
        axes.axhline(slope, color=GREY, linewidth=0.5, linestyle=(0, (4, 3)))
        axes.text(1, slope, meaning, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=6)
    axes.set(xlabel="response to the omission / to a flash", ylabel="slope of the latency on the period")


def _caption(table: pd.DataFrame, n_shown: int) -> str:
    found, uncertain = table["latency_slope"].notna(), int(table["latency_slope_uncertain"].sum())
    return (
        f"Response to the flash that was omitted after a periodic series. Left: the {n_shown} neurons that respond "
        "most (line: mean over members, band: their range; grey: the last flash, dotted: when the next one was due). "
        f"Right: strength of the response against the slope of its latency on the period, of {int(found.sum())} of "
        f"{len(table)} neurons that have a peak at two periods or more; 1: the response keeps time with the flash that "
        f"is missing (Schwartz et al. 2007), 0: with the last one. Open: uncertain, members disagree ({uncertain})."
    )
