"""Figures of what models of single images have learned of a session, beside the truth where it was simulated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.eval.learned import Learned, learned_of_session, mean_over_members, true_of_session
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, LIGHT_GREY, Drawing, paper_style
from coread.recording import Recording

if TYPE_CHECKING:
    from coread.models.member import Member

MAX_SESSIONS = 6
MAX_DOTS = 4000  # more say nothing more on paper and make files large
LEARNED_COLOR, TRUTH_COLOR = COLORS[0], "black"
POSITION_COLUMNS = ("position_x_um", "position_y_um")


@dataclass(frozen=True)
class LearnedSession:
    """One session with what every member has learned of it, by name, and the truth of a simulated one."""

    recording: Recording
    members: Mapping[str, Learned]
    truth: Learned | None

    @property
    def mean(self) -> Learned:
        """The mean over members."""
        return mean_over_members(self.members)

    def of_truth(self, name: str) -> np.ndarray | None:
        """Return a part of the truth, None where there is none."""
        return None if self.truth is None else getattr(self.truth, name)


def draw_gain(sessions: Sequence[LearnedSession]) -> Drawing | None:
    """Draw the learned gain over the time of every session, the true one beside it; None without any."""
    shown = _with(sessions, "gain")
    if not shown:
        return None
    said = []
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 0.35 + 1.15 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axes, session in zip(grid, shown, strict=True):
            order = np.argsort(session.recording.bin_column("time_order"), kind="stable")
            rank = np.arange(len(order))
            if len(session.members) > 1:
                for member in session.members.values():
                    axes.plot(rank, _relative(member.gain)[order], color=LIGHT_GREY, linewidth=0.5)
            learned = _relative(session.mean.gain)
            truth = session.of_truth("gain")
            if truth is not None:
                true_relative = _relative(truth)
                axes.plot(rank, true_relative[order], color=TRUTH_COLOR, linewidth=0.8, label="true")
                said.append(f"{session.recording.session}: r = {_correlation(learned, truth):.3f}")
            axes.plot(rank, learned[order], color=LEARNED_COLOR, linewidth=1.0, label="learned")
            axes.axhline(1, color=GREY, linewidth=0.4, zorder=0)
            axes.set_title(session.recording.session)
            axes.margins(x=0)
        grid[0].legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=2)
        grid[-1].set_xlabel("trial in the order of time")
        figure.supylabel("gain (mean over the session = 1)", fontsize=7)
    caption = (
        "Factor by which the model scales the responses of the whole population in every trial: mean over neurons, "
        f"over its own mean (blue: {_members(shown)}{'; grey: single members' if len(shown[0].members) > 1 else ''})."
        f"{_first(sessions, shown)}"
    )
    if said:
        caption += f" Black: the gain of the simulation, in the same way. Correlation with it: {'; '.join(said)}."
    return Drawing(figure, caption)


def draw_history_kernels(sessions: Sequence[LearnedSession]) -> Drawing | None:
    """Draw the distribution over neurons of the weight of every history filter; None without any."""
    shown = _with(sessions, "history_weights")
    if not shown:
        return None
    lags = [int(lag) for lag in shown[0].mean.history_lags]  # type: ignore[union-attr]
    learned = np.concatenate([session.mean.history_weights for session in shown])
    truth = [
        session.truth.history_weights
        for session in shown
        if session.truth is not None
        and session.truth.history_weights is not None
        and session.truth.history_lags.tolist() == lags  # type: ignore[union-attr]
    ]
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN * 0.6, 2.5), layout="constrained")
        axes = figure.subplots()
        offset = 0.17 if truth else 0.0
        _boxes(axes, learned, -offset, LEARNED_COLOR, "learned")
        if truth:
            _boxes(axes, np.concatenate(truth), offset, TRUTH_COLOR, "true")
            axes.legend(loc="upper right")
        axes.axhline(0, color=GREY, linewidth=0.4, zorder=0)
        axes.set_xticks(range(len(lags)), [str(lag) for lag in lags])
        axes.set_xlabel("mean over the last ... available trials")
        axes.set_ylabel("weight (response per response)")
    caption = (
        f"Weights with which a neuron's own past responses enter its response ({_members(shown)}): distribution over "
        f"{len(learned)} neurons of {_count(shown)}; box: quartiles, line: median, whiskers: 5 to 95 % of neurons. "
        "Responses of both sides are in standard deviations of the neuron."
    )
    if truth:
        caption += (
            " Black: weights of the simulation, which act before its noise and its own nonlinearity, so that they need "
            "not be equal."
        )
    return Drawing(figure, caption)


def draw_state_loadings(sessions: Sequence[LearnedSession]) -> Drawing | None:
    """Draw how strongly every neuron follows every component of the network's state; None without any."""
    shown = _with(sessions, "state_loadings")
    if not shown:
        return None
    loadings = [session.mean.state_loadings for session in shown]
    limit = float(np.quantile(np.abs(np.concatenate([values.ravel() for values in loadings])), 0.99)) or 1.0  # type: ignore[union-attr]
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.6), layout="constrained")
        grid = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, session, values in zip(grid, shown, loadings, strict=True):
            image = axes.imshow(
                _sorted_loadings(values),  # type: ignore[arg-type]
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                aspect="auto",
                interpolation="nearest",
            )
            axes.set_title(session.recording.session)
            axes.set_xticks([0, values.shape[1] - 1], ["1", str(values.shape[1])])  # type: ignore[union-attr]
            axes.set_xlabel("component")
        grid[0].set_ylabel("neuron, by strongest component")
        figure.colorbar(image, ax=list(grid), label="loading (response per unit)", shrink=0.9)
    first = next(iter(shown[0].members))
    caption = (
        "Weights with which the components of the network's state enter the responses of "
        f"{sum(session.recording.n_neurons for session in shown)} neurons of {_count(shown)} ({first}: components have "
        "no order that members share). Neurons are sorted by the component with the largest weight, components by "
        "their strength; responses in standard deviations of the neuron. The colours end at the 99 % quantile of all "
        "absolute weights."
        f"{_first(sessions, shown)}"
    )
    return Drawing(figure, caption)


def draw_shifter(sessions: Sequence[LearnedSession]) -> Drawing | None:
    """Draw the learned shift of receptive fields against the eye: the true one, or the pupil; None without any."""
    shown = _with(sessions, "shift_px")
    if not shown:
        return None
    known = all(session.of_truth("shift_px") is not None for session in shown)
    said = []
    with paper_style():
        figure = Figure(figsize=(_width(shown), 0.5 + 1.45 * 2), layout="constrained")
        grid = figure.subplots(2, len(shown), squeeze=False)
        for column, session in zip(grid.T, shown, strict=True):
            shift = _centred(session.mean.shift_px)
            eye = session.of_truth("shift_px") if known else session.recording.pupil_center
            assert eye is not None
            rows = _some(len(shift))
            values = []
            for axis, (axes, name) in enumerate(zip(column, ("horizontal", "vertical"), strict=True)):
                position = _centred(eye)[:, axis]
                axes.scatter(
                    position[rows],
                    shift[rows, axis],
                    s=2.5,
                    color=LEARNED_COLOR,
                    alpha=0.4,
                    linewidths=0,
                    rasterized=True,
                )
                if known:
                    limits = np.array([position.min(), position.max()])
                    axes.plot(limits, limits, color="black", linewidth=0.6, linestyle=(0, (4, 3)))
                values.append(_correlation(shift[:, axis], position))
                axes.set_title(f"{session.recording.session}, {name}" if axis == 0 else name)
            said.append(f"{session.recording.session}: r = {values[0]:.3f} horizontally, {values[1]:.3f} vertically")
        figure.supylabel("learned shift (px)", fontsize=7)
        figure.supxlabel("true eye position (px)" if known else "pupil centre (recorded units)", fontsize=7)
    caption = (
        f"Shift of all receptive fields that the model derives from the pupil ({_members(shown)}) in every trial, in "
        f"pixels of the stimulus, against {'the true position of the simulated eye' if known else 'the pupil centre'}; "
        "both around their means, because a constant shift cannot be told from the receptive fields' own places"
        f"{' (dashed: equality)' if known else ''}. {'; '.join(said)}.{_first(sessions, shown)}"
    )
    return Drawing(figure, caption)


def draw_retinotopy(sessions: Sequence[LearnedSession]) -> Drawing | None:
    """Draw the neurons at their places in the cortex, coloured by the place in the image that they see."""
    shown = [
        session
        for session in _with(sessions, "position_px")
        if all(name in session.recording.neurons for name in POSITION_COLUMNS)
    ]
    if not shown:
        return None
    said = []
    with paper_style():
        figure = Figure(figsize=(_width(shown), 0.5 + 2 * 1.5), layout="constrained")
        grid = figure.subplots(2, len(shown), squeeze=False)
        for column, session in zip(grid.T, shown, strict=True):
            cortex = session.recording.neurons[list(POSITION_COLUMNS)].to_numpy(float)
            seen, truth = session.mean.position_px, session.of_truth("position_px")
            assert seen is not None
            for axis, (axes, name) in enumerate(zip(column, ("x", "y"), strict=True)):
                _draw_map(axes, cortex, seen[:, axis], f"seen {name} (px)", figure)
            column[0].set_title(session.recording.session)
            if truth is not None:
                error = np.median(np.linalg.norm(seen - truth, axis=1))
                correlation = [_correlation(seen[:, axis], truth[:, axis]) for axis in (0, 1)]
                said.append(
                    f"{session.recording.session}: r = {correlation[0]:.3f} in x, {correlation[1]:.3f} in y, median "
                    f"distance {error:.2f} px"
                )
        figure.supxlabel("cortex x (µm)", fontsize=7)
        figure.supylabel("cortex y (µm)", fontsize=7)
    height, width = next(iter(shown[0].recording.stimuli.values())).frames.shape[-2:]
    n_neurons = sum(session.recording.n_neurons for session in shown)
    caption = (
        f"Retinotopy: {n_neurons} neurons of {_count(shown)} at their places in the cortex, coloured by the place in "
        f"the image ({width} x {height} pixels, y downwards) at which the model reads the core's output for them "
        f"({_members(shown)}).{_first(sessions, shown)}"
    )
    if said:
        caption += f" Against the true centres of the simulated receptive fields: {'; '.join(said)}."
    return Drawing(figure, caption)


LEARNED_FIGURES: Mapping[str, Callable[[Sequence[LearnedSession]], Drawing | None]] = {
    "gain": draw_gain,
    "history_kernels": draw_history_kernels,
    "state_loadings": draw_state_loadings,
    "shifter": draw_shifter,
    "retinotopy": draw_retinotopy,
}


def _with(sessions: Sequence[LearnedSession], name: str) -> list[LearnedSession]:
    return [session for session in sessions if getattr(session.mean, name) is not None][:MAX_SESSIONS]


def _width(shown: Sequence[LearnedSession]) -> float:
    """Return the width of a figure with one column per session, in inches."""
    return min(FULL_WIDTH_IN, 0.4 + 2.3 * len(shown))


def _relative(gain: Float[np.ndarray, "trial"] | None) -> Float[np.ndarray, "trial"]:
    assert gain is not None
    return gain / gain.mean()


def _centred(values: Float[np.ndarray, "trial 2"] | None) -> Float[np.ndarray, "trial 2"]:
    assert values is not None
    return values - np.nanmean(values, axis=0)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation over what is finite in both; NaN where one is constant."""
    used = np.isfinite(x) & np.isfinite(y)
    x, y = x[used] - x[used].mean(), y[used] - y[used].mean()
    power = np.sqrt(np.square(x).sum() * np.square(y).sum())
    return float((x * y).sum() / power) if power > 0 else float("nan")


def _some(n: int) -> np.ndarray:
    """Return at most MAX_DOTS evenly spread rows."""
    return np.unique(np.linspace(0, n - 1, min(n, MAX_DOTS)).round().astype(int))


def _boxes(axes: Axes, values: Float[np.ndarray, "neuron lag"], offset: float, color: str, label: str) -> None:
    """Draw quartiles, median and the 5 to 95 % range of every column."""
    low, first, median, third, high = np.percentile(values, [5, 25, 50, 75, 95], axis=0)
    position = np.arange(values.shape[1]) + offset
    axes.vlines(position, low, high, color=color, linewidth=0.8)
    axes.bar(position, third - first, 0.28, bottom=first, color=color, alpha=0.35, linewidth=0)
    axes.hlines(median, position - 0.14, position + 0.14, color=color, linewidth=1.6, label=label)


def _sorted_loadings(loadings: Float[np.ndarray, "neuron component"]) -> Float[np.ndarray, "neuron component"]:
    """Sort components by their strength, neurons by the component with the largest weight and by that weight."""
    ordered = loadings[:, np.argsort(-np.square(loadings).sum(axis=0), kind="stable")]
    strongest = np.abs(ordered).argmax(axis=1)
    return ordered[np.lexsort((-ordered[np.arange(len(ordered)), strongest], strongest))]


def _draw_map(
    axes: Axes, cortex: Float[np.ndarray, "neuron 2"], seen: Float[np.ndarray, "neuron"], label: str, figure: Figure
) -> None:
    size = 7.0 if len(seen) <= 500 else 1.5
    dots = axes.scatter(cortex[:, 0], cortex[:, 1], c=seen, s=size, cmap="viridis", linewidths=0, rasterized=True)
    axes.set_aspect("equal")
    axes.locator_params(nbins=3)
    figure.colorbar(dots, ax=axes, label=label, shrink=0.85)


def _members(sessions: Sequence[LearnedSession]) -> str:
    n = len(sessions[0].members)
    return "one member" if n == 1 else f"mean of {n} members"


def _count(sessions: Sequence[LearnedSession]) -> str:
    return "one session" if len(sessions) == 1 else f"{len(sessions)} sessions"


def _first(sessions: Sequence[LearnedSession], shown: Sequence[LearnedSession]) -> str:
    """Say that not all sessions are drawn."""
    return f" The first {len(shown)} of {len(sessions)} sessions." if len(shown) < len(sessions) else ""


def draw_learned(recordings: Sequence[Recording], members: Sequence["Member"]) -> dict[str, Drawing | None]:
    """Draw what trained models of images have learned: gain, history, state, shifter, retinotopy; nothing of others."""
    if not members or not hasattr(members[0].model, "modulator"):
        return {}
    sessions = []
    for recording in recordings:
        learned = {f"fold{member.fold}_seed{member.seed}": learned_of_session(member, recording) for member in members}
        sessions.append(LearnedSession(recording, learned, true_of_session(recording)))
    return {name: draw(sessions) for name, draw in LEARNED_FIGURES.items()}
