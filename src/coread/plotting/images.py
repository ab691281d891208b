"""Figures of predicted and recorded responses to single images that were shown repeatedly."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.eval.ensembles import ENSEMBLE, predict_rows
from coread.eval.masked_statistics import masked_mean, masked_variance
from coread.eval.predictions import MemberPredictions
from coread.eval.repeats import gather_repeats
from coread.eval.scores import session_members, tested_rows
from coread.plotting.style import ENSEMBLE_COLOR, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style
from coread.recording import Recording

N_COLUMNS = 4
QUANTILES = (1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.15, 0.0)


def shows_images(recordings: Sequence[Recording]) -> bool:
    """Return whether every trial is one bin: an image, in place of a movie."""
    return all(recording.n_bins == len(recording.trials) for recording in recordings)


def draw_image_responses(
    recordings: Sequence[Recording], predictions: Sequence[MemberPredictions], scores: pd.DataFrame
) -> Drawing | None:
    """Draw measured against predicted mean responses to every test image, for neurons from the best to the worst.

    One panel per quantile of the correlation to the average among included neurons of all sessions. None if no image
    was shown in a test.
    """
    usable = scores[
        (scores["predictor"] == ENSEMBLE)
        & (scores["metric"] == "correlation_to_average")
        & scores["included"]
        & scores["value"].notna()
    ].sort_values("value", kind="stable")
    if usable.empty:
        return None
    chosen = usable.iloc[[round(quantile * (len(usable) - 1)) for quantile in QUANTILES]]
    by_name = {recording.session: recording for recording in recordings}
    n_rows = -(-len(QUANTILES) // N_COLUMNS)
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 0.3 + 1.75 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, N_COLUMNS).ravel()
        for (session, stimulus), group in chosen.assign(panel=grid).groupby(["session", "stimulus"], sort=False):
            recording = by_name[str(session)]
            members = session_members(recording, predictions)
            rows = tested_rows(recording, members)[str(stimulus)]
            measured = gather_repeats(recording.responses, rows)
            predicted = predict_rows(members, rows)[ENSEMBLE]
            for axes, neuron, unit_id, value in group[["panel", "neuron", "unit_id", "value"]].itertuples(
                index=False, name=None
            ):
                _draw_neuron(axes, measured[..., neuron], predicted[..., neuron])
                axes.set_title(f"{session}  {unit_id}\nr = {value:.2f}", fontsize=6.5, pad=2)
        grid[0].legend(loc="upper left", handletextpad=0.2, borderpad=0.1)
        unit = recordings[0].unit
        figure.supxlabel(f"predicted response, {unit}", fontsize=7)
        figure.supylabel(f"measured response, {unit}", fontsize=7)
    n_members = len(predictions)
    caption = (
        "Measured against predicted responses to the test images: one dot per image, mean over its repeats, bars: "
        f"s.e.m. over repeats; {'one member' if n_members == 1 else f'ensemble of {n_members} members'}, predictions "
        "averaged over the same repeats; dashed: equality. Panels: the neurons at the "
        f"{', '.join(f'{100 * quantile:.0f}' for quantile in QUANTILES)} % quantiles of the correlation to the average "
        f"(r) among {len(usable)} included neurons and test stimuli, best first, with their session and unit."
    )
    return Drawing(figure, caption)


def _draw_neuron(
    axes: Axes,
    measured: Float[np.ndarray, "image repeat"],
    predicted: Float[np.ndarray, "image"] | Float[np.ndarray, "image repeat"],
) -> None:
    if predicted.ndim == 2:
        predicted = masked_mean(np.where(np.isfinite(measured), predicted, np.nan), 1)
    mean, n_repeats = masked_mean(measured, 1), np.isfinite(measured).sum(axis=1)
    error = np.sqrt(masked_variance(measured, 1) / np.maximum(n_repeats, 1))
    axes.errorbar(predicted, mean, yerr=error, fmt="none", ecolor=LIGHT_GREY, elinewidth=0.6, zorder=1)
    axes.scatter(predicted, mean, s=5, color=ENSEMBLE_COLOR, linewidths=0, zorder=2, label="image")
    limits = [float(np.nanmin([predicted, mean])), float(np.nanmax([predicted, mean]))]
    axes.plot(limits, limits, color=GREY, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    axes.locator_params(nbins=4)
