"""Figures of predicted and recorded responses."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.eval.predictions import MemberPredictions
from coread.eval.repeats import gather_repeats
from coread.eval.scores import ENSEMBLE, predict_rows, session_members, tested_rows
from coread.plotting.style import ENSEMBLE_COLOR, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style
from coread.recording import Recording

QUANTILES = (1.0, 0.75, 0.5, 0.25, 0.0)
MAX_STIMULI, WINDOW_S = 3, 8.0


def draw_traces(
    recordings: Sequence[Recording], predictions: Sequence[MemberPredictions], scores: pd.DataFrame
) -> Drawing | None:
    """Draw recorded and predicted responses to repeats for neurons from the best to the worst predicted one.

    One column per test stimulus (at most MAX_STIMULI), one row per quantile of the correlation to the average among
    included neurons. None if the experiment has no test stimulus with an included neuron.
    """
    chosen = _choose(scores)
    if chosen.empty:
        return None
    by_name = {recording.session: recording for recording in recordings}
    stimuli = list(dict.fromkeys(chosen["stimulus"]))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 0.4 + 1.1 * len(QUANTILES)), layout="constrained")
        grid = figure.subplots(len(QUANTILES), len(stimuli), squeeze=False, sharex="col")
        for keys, group in chosen.groupby(["stimulus", "session"], sort=False):
            stimulus, session = map(str, keys)
            _draw_column(grid[:, stimuli.index(stimulus)], by_name[session], predictions, stimulus, group)
        for column, stimulus in enumerate(stimuli):
            grid[-1, column].set_xlabel(f"time in {stimulus} (s)")
        grid[0, 0].legend(loc="upper right", ncols=2)
        unit = "spikes / s" if _counts_spikes(recordings[0]) else recordings[0].unit
        figure.supylabel(f"response ({unit})", fontsize=7)
    caption = (
        f"Recorded (grey: mean over repeats ± s.e.m.) and predicted responses (blue: {_ensemble(len(predictions))}) "
        f"to the first {WINDOW_S:g} s of the test stimuli. Rows: the neurons at the "
        f"{', '.join(f'{100 * quantile:.0f}' for quantile in QUANTILES)} % quantiles of the correlation to the average "
        "(r, over the whole stimulus) among included neurons of all sessions, best first."
    )
    return Drawing(figure, caption)


def _draw_column(
    column: np.ndarray,
    recording: Recording,
    predictions: Sequence[MemberPredictions],
    stimulus: str,
    chosen: pd.DataFrame,
) -> None:
    """Draw one session's chosen neurons into the axes of one test stimulus."""
    members = session_members(recording, predictions)
    rows = tested_rows(recording, members)[stimulus][: max(2, round(WINDOW_S * recording.rate_hz))]
    recorded = gather_repeats(recording.responses, rows)
    predicted = predict_rows(members, rows)[ENSEMBLE]
    for rank, neuron, unit_id, value in chosen[["rank", "neuron", "unit_id", "value"]].itertuples(
        index=False, name=None
    ):
        axes: Axes = column[rank]
        _draw_trace(axes, recorded[..., neuron], predicted[:, neuron], recording)
        axes.set_title(f"{unit_id}   r = {value:.2f}", fontsize=6.5, pad=2)


def _choose(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the neurons at the quantiles of each test stimulus, with their rank 0 (best) and up."""
    usable = scores[
        (scores["predictor"] == ENSEMBLE)
        & (scores["metric"] == "correlation_to_average")
        & scores["included"]
        & scores["value"].notna()
    ]
    parts = []
    for stimulus in list(dict.fromkeys(usable["stimulus"]))[:MAX_STIMULI]:
        ordered = usable[usable["stimulus"] == stimulus].sort_values("value", kind="stable")
        places = [round(quantile * (len(ordered) - 1)) for quantile in QUANTILES]
        picked = ordered.iloc[places].assign(rank=range(len(places)))
        parts.append(picked.drop_duplicates(["session", "neuron"]))
    return pd.concat(parts, ignore_index=True) if parts else usable


def _ensemble(n_members: int) -> str:
    return "one member" if n_members == 1 else f"ensemble of {n_members} members"


def _counts_spikes(recording: Recording) -> bool:
    return "count" in recording.unit


def _draw_trace(
    axes: Axes,
    recorded: Float[np.ndarray, "row repeat"],
    predicted: Float[np.ndarray, "row"],
    recording: Recording,
) -> None:
    per_second = recording.rate_hz if _counts_spikes(recording) else 1.0
    time = np.arange(len(predicted)) / recording.rate_hz
    n_repeats = np.isfinite(recorded).sum(axis=1)
    mean = np.nanmean(recorded, axis=1) * per_second
    if (n_repeats > 1).all():
        error = np.nanstd(recorded, axis=1, ddof=1) / np.sqrt(n_repeats) * per_second
        axes.fill_between(time, mean - error, mean + error, color=LIGHT_GREY, linewidth=0)
    axes.plot(time, mean, color=GREY, linewidth=0.7, label="recorded")
    axes.plot(time, predicted * per_second, color=ENSEMBLE_COLOR, linewidth=0.9, label="predicted")
    axes.margins(x=0)
