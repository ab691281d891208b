"""Figures of functional clusters: fingerprints sorted by cluster, means of clusters, stability."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from coread.insilico.experiment import ExperimentResult
from coread.plotting.groups import joined_table
from coread.plotting.style import COLORS, FULL_WIDTH_IN, GREY, Drawing, paper_style, strip

ROW_IN, MAX_HEIGHT_IN = 0.3, 8.5
COLOR_PERCENTILE = 99  # of absolute features: beyond it colours saturate


def draw_fingerprints(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw the fingerprints of all neurons as a matrix, sorted by cluster and by how sure their cluster is."""
    table = joined_table(results)
    values = _stacked(results, "fingerprint")
    block = _blocks(results)
    order = np.lexsort((-table["cluster_confidence"].to_numpy(float), table["cluster"].to_numpy()))
    cluster = table["cluster"].to_numpy(int)[order]
    uncertain = table["cluster_uncertain"].to_numpy(bool)[order]
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, min(MAX_HEIGHT_IN, 1.6 + 0.02 * len(order))), layout="constrained")
        bar, *panels = figure.subplots(1, 1 + len(_spans(block)), width_ratios=[0.6, *_widths(block)])
        _draw_cluster_bar(bar, cluster, uncertain)
        image = None
        for axes, (name, span) in zip(panels, _spans(block).items(), strict=True):
            shown = values[order][:, span]
            limit = float(np.percentile(np.abs(shown), COLOR_PERCENTILE)) or 1.0
            image = axes.imshow(
                shown / limit, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest", rasterized=True
            )
            for edge in np.flatnonzero(np.diff(cluster)) + 0.5:
                axes.axhline(edge, color="black", linewidth=0.4)
            axes.set_title(name)
            axes.set(xticks=[], yticks=[])
        if image is not None:
            figure.colorbar(image, ax=panels, label="feature (relative)", shrink=0.5, ticks=[-1, 0, 1])
    caption = (
        f"Functional fingerprints of {len(order)} model neurons of {_sessions(results)}, one row each, sorted by "
        f"cluster (left: number and colour; white gaps in the bar: neurons whose cluster is uncertain, "
        f"{uncertain.sum()} of {len(order)}) and, within, by the confidence of their assignment. Columns: responses to "
        f"{', '.join(_spans(block))}, each relative to its {COLOR_PERCENTILE}th percentile (red positive)."
    )
    return Drawing(figure, caption)


def _draw_cluster_bar(axes: Axes, cluster: Int[np.ndarray, "neuron"], uncertain: np.ndarray) -> None:
    shown = np.where(uncertain, 0, (cluster - 1) % len(COLORS) + 1)[:, None]
    colors = ListedColormap(["white", *COLORS])
    axes.imshow(shown, aspect="auto", cmap=colors, vmin=-0.5, vmax=len(COLORS) + 0.5, interpolation="nearest")
    numbers = np.unique(cluster)
    axes.set_yticks([float(np.flatnonzero(cluster == number).mean()) for number in numbers], [str(n) for n in numbers])
    axes.set(xticks=[], ylabel=f"cluster ({len(cluster)} neurons)")
    axes.tick_params(length=0)
    axes.spines[["right", "top"]].set_visible(True)


def draw_cluster_means(results: Mapping[str, ExperimentResult]) -> Drawing:
    """Draw the mean fingerprint of every cluster with the spread over its neurons."""
    table = joined_table(results)
    values, block = _stacked(results, "fingerprint"), _blocks(results)
    cluster = table["cluster"].to_numpy(int)
    numbers, spans = np.unique(cluster), _spans(block)
    height = min(MAX_HEIGHT_IN, 0.5 + 2 * ROW_IN * len(numbers))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, height), layout="constrained")
        panels = figure.subplots(
            len(numbers), len(spans), width_ratios=_widths(block), sharex="col", sharey="col", squeeze=False
        )
        for row, number in zip(panels, numbers, strict=True):
            chosen = cluster == number
            row[0].set_ylabel(f"{number}\nn = {chosen.sum()}", rotation=0, ha="right", va="center")
            for axes, span in zip(row, spans.values(), strict=True):
                _draw_mean(axes, values[chosen][:, span], COLORS[(number - 1) % len(COLORS)])
        for axes, name in zip(panels[0], spans, strict=True):
            axes.set_title(name)
        for axes, span in zip(panels[-1], spans.values(), strict=True):
            axes.set_xlabel(_last(_names(results)[span]), loc="right")
    caption = (
        f"Mean fingerprints of {len(numbers)} clusters of {len(table)} model neurons of {_sessions(results)} (bands: "
        "one standard deviation over neurons; responses in standard deviations, tuning curves relative to their "
        "largest value; tuning curves begin at the preferred angle where they are aligned)."
    )
    return Drawing(figure, caption)


def _draw_mean(axes: Axes, values: Float[np.ndarray, "neuron feature"], color: str) -> None:
    mean, spread, place = values.mean(axis=0), values.std(axis=0), np.arange(values.shape[1])
    axes.axhline(0, color=GREY, linewidth=0.4)
    axes.fill_between(place, mean - spread, mean + spread, color=color, alpha=0.25, linewidth=0)
    axes.plot(place, mean, color=color, linewidth=0.8)
    axes.set(xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.locator_params(axis="y", nbins=3)


def _last(names: list[str]) -> str:
    """Return the value of the last feature of a block with its unit."""
    return " ".join(names[-1].split(" ")[-2:])


def draw_cluster_stability(results: Mapping[str, ExperimentResult], method: str, stable_jaccard: float) -> Drawing:
    """Draw what decided about the number of clusters, how stable each is, and how alike repeated clusterings are."""
    table = joined_table(results)
    first = next(iter(results.values()))
    tried, score = first.axes["tried"].data, first.arrays["number_score"].data
    of_clusters = first.arrays["stability_of_clusters"].data
    best = "lowest" if method == "mixture" else "highest"
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH_IN, 2.2), layout="constrained")
        number, jaccard, rand = figure.subplots(1, 3)
        number.plot(tried, score, marker="o", markersize=2.5, color=GREY)
        number.plot(len(of_clusters), score[tried == len(of_clusters)], marker="o", markersize=4, color=COLORS[1])
        number.set(xlabel="number of clusters", ylabel="BIC" if method == "mixture" else "mean silhouette")
        number.locator_params(axis="x", integer=True)
        _draw_jaccard(jaccard, of_clusters, stable_jaccard)
        kinds = [name for name in ("neurons", "features", "members") if len(_rand(first, name))]
        for position, name in enumerate(kinds):
            strip(rand, position, _rand(first, name), COLORS[position])
        rand.set_xticks(range(len(kinds)), kinds)
        rand.set(xlabel="drawn again", ylabel="adjusted Rand index", ylim=(None, 1.05), xlim=(-0.6, len(kinds) - 0.4))
    agreement = table["cluster_agreement_members"].to_numpy(float)
    of_members = (
        f" On average {100 * np.nanmean(agreement):.0f} % of the members put a neuron into its cluster."
        if np.isfinite(agreement).any()
        else ""
    )
    caption = (
        f"Clusters of {len(table)} model neurons. Left: their number ({best} is best; orange: chosen). Middle: mean "
        "Jaccard coefficient of each cluster over bootstraps of the neurons (open: below the line, unstable). Right: "
        "adjusted Rand index between the clustering and one of other neurons, features or members (1 the same, 0 "
        "chance)."
        f"{of_members}"
    )
    return Drawing(figure, caption)


def _draw_jaccard(axes: Axes, of_clusters: Float[np.ndarray, "cluster"], stable: float) -> None:
    for place, value in enumerate(of_clusters):
        color = COLORS[place % len(COLORS)]
        face = color if value >= stable else "none"
        axes.plot(place + 1, value, marker="o", markersize=4.5, markerfacecolor=face, markeredgecolor=color)
    axes.axhline(stable, color=GREY, linewidth=0.6, linestyle="--")
    axes.set(xlabel="cluster", ylabel="Jaccard coefficient", ylim=(-0.05, 1.05), xlim=(0.4, len(of_clusters) + 0.6))
    axes.locator_params(axis="x", integer=True)


def _rand(result: ExperimentResult, name: str) -> Float[np.ndarray, "again"]:
    # the file keeps no dots of an analysis that there was not
    return np.asarray(result.arrays[f"rand_index_over_{name}"].data, dtype=float)


def _stacked(results: Mapping[str, ExperimentResult], name: str) -> Float[np.ndarray, "neuron feature"]:
    return np.concatenate([result.arrays[name].data for result in results.values()])


def _names(results: Mapping[str, ExperimentResult]) -> list[str]:
    return [str(name) for name in next(iter(results.values())).axes["feature"].data]


def _blocks(results: Mapping[str, ExperimentResult]) -> list[str]:
    return [str(name) for name in next(iter(results.values())).axes["block"].data]


def _spans(block: list[str]) -> dict[str, slice]:
    """Return where the features of every block are, which are next to each other."""
    return {name: slice(block.index(name), len(block) - block[::-1].index(name)) for name in dict.fromkeys(block)}


def _widths(block: list[str]) -> list[float]:
    """Return the widths of blocks: longer ones wider, none too narrow for its name."""
    lengths = np.sqrt([span.stop - span.start for span in _spans(block).values()])
    return [float(width) for width in np.maximum(lengths / lengths.max(), 0.3) * 4]


def _sessions(results: Mapping[str, ExperimentResult]) -> str:
    return "one session" if len(results) == 1 else f"{len(results)} sessions"
