"""Scores of every neuron with every member and with their ensemble, as one tidy table."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from coread.data_io.dataloader import read_rows
from coread.data_io.splits import TEST
from coread.eval.ensembles import ENSEMBLE, held_out_bins, out_of_fold, predict_rows
from coread.eval.metrics import (
    Predictions,
    Repeats,
    bootstrap_repeats,
    correlation_to_average,
    explainable_vs_total_var,
    feve,
    noise_ceiling,
    normalized_correlation,
    poisson_loss_numpy,
    single_trial_correlation,
)
from coread.eval.oracles import oracle_corr_jackknife
from coread.eval.predictions import MemberPredictions, SessionPrediction
from coread.eval.repeats import align_repeats, gather_repeats
from coread.eval.sensorium_intervals import published_intervals, where_formulas_agree
from coread.eval.sensorium_metrics import (
    published_correlation_to_average,
    published_explainable_variance,
    published_feve,
    published_single_trial_correlation,
)
from coread.eval.settings import EvaluationSettings
from coread.provenance import write_text
from coread.recording import Recording

DATA = "data"  # predictor of scores that need no model
VALIDATION_TIER = "validation"
BLOCK_VALUES = 2**24  # responses scored at a time: 128 MiB in float64
MIN_REPEATS = 4  # for an interval over repeats
COLUMNS = [
    "experiment",
    "dataset",
    "session",
    "neuron",
    "unit_id",
    "cell_type",
    "stimulus",
    "tier",
    "predictor",
    "metric",
    "value",
    "n_bins",
    "bins_crc32",
    "n_repeats",
    "n_members",
    "included",
    "ci_low",
    "ci_high",
]
NAMES = ["experiment", "dataset", "session", "unit_id", "cell_type", "stimulus", "tier", "predictor", "metric"]
SORT = ["dataset", "session", "stimulus", "tier", "predictor", "metric", "neuron"]

PerNeuron = Float[np.ndarray, "neuron"]
Values = dict[tuple[str, str], tuple[PerNeuron, PerNeuron, PerNeuron]]  # (predictor, metric) -> value, CI low, high
Metric = Callable[[Repeats, Predictions], PerNeuron]
CORRELATIONS: Mapping[str, tuple[Metric, Metric]] = {  # formulas -> single-trial, to average
    "exact": (single_trial_correlation, correlation_to_average),
    "sensorium_2022": (published_single_trial_correlation, published_correlation_to_average),
}


class ScoreError(ValueError):
    """Predictions do not belong to the recordings or to each other; the message names the session."""


def score_experiment(
    recordings: Sequence[Recording], predictions: Sequence[MemberPredictions], config: Mapping[str, Any]
) -> pd.DataFrame:
    """Return one row per neuron, test stimulus (and "validation"), predictor and metric.

    Predictors are the members by name, `ensemble` (mean prediction of all members) and `data`. Test stimuli: every
    stimulus of the tiers test and final_test (apart, as `<stimulus> (final_test)`), over the bins that are valid, not
    withheld and have the model's lag of predecessors. Validation: a member is scored on its own validation bins, the
    ensemble on all bins that are validation bins of at least one member, predicted by only those members; `n_members`
    is their mean number per bin. `bins_crc32` says which bins were scored: where it differs, validation scores are not
    comparable. `included` is false for neurons whose explainable variance on the test stimulus (for validation: on all
    of them) is below the threshold of `config`, the `evaluation` node, for the metrics that it applies to. Intervals
    are over repeats, where most bins have at least `MIN_REPEATS`; of members only if `bootstrap.members` says so.
    `fraction_of_ceiling` and `normalized_correlation` are one number under the two names that papers use. Raises
    ScoreError, EvaluationError.
    """
    if not predictions:
        raise ScoreError("there are no predictions to score")
    settings = EvaluationSettings.from_config(config)
    parts = [
        table.assign(experiment=predictions[0].experiment)
        for recording in recordings
        for table in _score_session(recording, predictions, settings)
    ]
    scores = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
    return scores.sort_values(SORT, kind="stable", ignore_index=True)


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write scores as CSV with every digit, atomically."""
    write_text(path, scores.to_csv(index=False, lineterminator="\n"))


def read_scores(path: Path) -> pd.DataFrame:
    """Read scores; identifiers stay text. Raises ScoreError that names the file."""
    try:
        scores = pd.read_csv(
            path,
            dtype=dict.fromkeys([*NAMES, "bins_crc32"], str),
            keep_default_na=False,
            na_values={"value": [""], "ci_low": [""], "ci_high": [""]},
        )
    except (OSError, ValueError) as error:
        raise ScoreError(f"{path}: not a readable table of scores ({error})") from error
    if list(scores.columns) != COLUMNS:
        raise ScoreError(f"{path}: columns are {list(scores.columns)}, expected {COLUMNS}")
    return scores


def _score_session(
    recording: Recording, predictions: Sequence[MemberPredictions], settings: EvaluationSettings
) -> Iterator[pd.DataFrame]:
    members = session_members(recording, predictions)
    included_somewhere = np.zeros(recording.n_neurons, bool)
    tables = tested_rows(recording, members)
    n_members = dict.fromkeys((*members, DATA), 1.0) | {ENSEMBLE: float(len(members))}
    for stimulus, table in tables.items():
        responses = gather_repeats(recording.responses, table)
        seed = _seed(settings, recording.session, stimulus)
        values, included = _test_scores_in_blocks(responses, predict_rows(members, table), settings, seed)
        included_somewhere |= included
        tier = str(recording.bin_column("tier")[table.max(axis=1)[0]])
        yield _frame(recording, values, (stimulus, tier), table, n_members, included).pipe(_apply_threshold, settings)
    if not tables:
        included_somewhere[:] = True
    for scores in _validation_scores(recording, members, included_somewhere, settings):
        yield _apply_threshold(scores, settings)


def _apply_threshold(table: pd.DataFrame, settings: EvaluationSettings) -> pd.DataFrame:
    """Include every neuron in the metrics that no threshold applies to."""
    free = ~table["metric"].map(settings.has_threshold).astype(bool)
    return table.assign(included=table["included"] | free)


def session_members(recording: Recording, predictions: Sequence[MemberPredictions]) -> dict[str, SessionPrediction]:
    """Return what each member predicts for one session, by name; raises ScoreError for what does not fit."""
    members: dict[str, SessionPrediction] = {}
    for member in predictions:
        if member.name in members:
            raise ScoreError(f"session {recording.session!r}: two members are called {member.name}")
        if recording.session not in member.sessions:
            known = sorted(member.sessions)
            raise ScoreError(f"{member.name} has no predictions of session {recording.session!r}, only {known}")
        members[member.name] = member.sessions[recording.session]
        found = members[member.name].prediction.shape
        if found != tuple(recording.responses.shape):
            raise ScoreError(
                f"session {recording.session!r}: {member.name} predicts (bin, neuron) {found}, "
                f"the recording has {tuple(recording.responses.shape)}"
            )
    return members


def tested_rows(
    recording: Recording, members: Mapping[str, SessionPrediction]
) -> dict[str, Int[np.ndarray, "row repeat"]]:
    """Return the bins of every test stimulus, repeats side by side, that all members predict.

    A stimulus of the tier final_test is called `<stimulus> (final_test)`: its scores are never mixed with those of the
    tier test.
    """
    tested = np.all([member.label == TEST for member in members.values()], axis=0) & recording.valid
    final = recording.bin_column("tier").astype(str) == "final_test"
    of_final = align_repeats(recording, tested & final)
    return align_repeats(recording, tested & ~final) | {f"{name} (final_test)": of_final[name] for name in of_final}


def _seed(settings: EvaluationSettings, *names: str) -> list[int]:
    """Return a seed of its own for each session and stimulus, so that adding one changes no other's interval."""
    return [settings.seed, *(zlib.crc32(name.encode()) for name in names)]


def _test_scores_in_blocks(
    responses: Float[np.ndarray, "row repeat neuron"],
    predictions: Mapping[str, Predictions],
    settings: EvaluationSettings,
    seed: Sequence[int],
) -> tuple[Values, Bool[np.ndarray, "neuron"]]:
    """Score blocks of neurons, so that the float64 copies of thousands of neurons never lie in memory together.

    Every block draws the same resamples of the repeats: no score or interval depends on the size of a block.
    """
    n_neurons = responses.shape[2]
    size = max(1, BLOCK_VALUES // (responses.shape[0] * responses.shape[1]))
    blocks = [slice(first, first + size) for first in range(0, n_neurons, size)]
    scored = [
        _test_scores(
            responses[..., block].astype(np.float64),
            {name: prediction[..., block].astype(np.float64) for name, prediction in predictions.items()},
            settings,
            seed,
        )
        for block in blocks
    ]
    joined: Values = {}
    for key in scored[0][0]:
        value, low, high = (np.concatenate(parts) for parts in zip(*(values[key] for values, _ in scored), strict=True))
        joined[key] = (value, low, high)
    return joined, np.concatenate([included for _, included in scored])


def _test_scores(
    responses: Float[np.ndarray, "row repeat neuron"],
    predictions: Mapping[str, Predictions],
    settings: EvaluationSettings,
    seed: Sequence[int],
) -> tuple[Values, Bool[np.ndarray, "neuron"]]:
    varies = np.nanmax(responses, axis=(0, 1)) > np.nanmin(responses, axis=(0, 1))
    published = settings.formulas == "sensorium_2022"
    share = published_explainable_variance(responses) if published else explainable_vs_total_var(responses)[0]
    explainable = np.where(varies, share, np.nan)
    values = {
        (DATA, "explainable_variance"): explainable,
        (DATA, "noise_ceiling"): noise_ceiling(responses),
        (DATA, "jackknife_oracle"): oracle_corr_jackknife(responses)[0],
    }
    intervals: dict[tuple[str, str], Float[np.ndarray, "2 neuron"]] = {}
    for name, prediction in predictions.items():
        values |= _model_scores(name, responses, prediction, settings)
        if name == ENSEMBLE or settings.member_intervals:
            intervals |= _intervals(name, responses, prediction, settings, seed)
    # without repeats the explainable variance is unknown, and nothing speaks against a neuron that varies
    included = varies & ~(explainable < settings.explainable_variance_threshold)
    nothing = np.full((2, len(included)), np.nan)
    return {key: (value, *intervals.get(key, nothing)) for key, value in values.items()}, included


def _model_scores(
    name: str, responses: Repeats, prediction: Predictions, settings: EvaluationSettings
) -> dict[tuple[str, str], PerNeuron]:
    normalized = normalized_correlation(responses, prediction)
    single_trial, to_average = CORRELATIONS[settings.formulas]
    published = settings.formulas == "sensorium_2022"
    scores = {
        "single_trial_correlation": single_trial(responses, prediction),
        "correlation_to_average": to_average(responses, prediction),
        "normalized_correlation": normalized,
        "fraction_of_ceiling": normalized,
        "feve": published_feve(responses, prediction) if published else feve(responses, prediction),
        "poisson_loss": _poisson_loss(responses, prediction),
    }
    return {(name, metric): value for metric, value in scores.items()}


def _intervals(
    name: str,
    responses: Repeats,
    prediction: Predictions,
    settings: EvaluationSettings,
    seed: Sequence[int],
) -> dict[tuple[str, str], Float[np.ndarray, "2 neuron"]]:
    """Return intervals over repeats, from the same resamples for every predictor; none for few repeats.

    Fewer than `MIN_REPEATS` repeats of most bins are too few: 95 % intervals of three repeats hold the truth in only
    78 to 89 % of cases. Each is of the formula that gives the value in its row.
    """
    repeats_of_bin = np.isfinite(responses).any(axis=2).sum(axis=1)
    if not settings.n_bootstrap or np.median(repeats_of_bin) < MIN_REPEATS:
        return {}
    resamples = (settings.n_bootstrap, np.random.default_rng(seed), settings.level)
    found = bootstrap_repeats(responses, prediction, *resamples)
    found["fraction_of_ceiling"] = found["normalized_correlation"]
    if settings.formulas == "sensorium_2022":
        resamples = (settings.n_bootstrap, np.random.default_rng(seed), settings.level)
        found |= published_intervals(responses, prediction, *resamples)
        interval = found["correlation_to_average"]
        found["correlation_to_average"] = where_formulas_agree(responses, prediction, interval)
    data = ("noise_ceiling", "explainable_variance")
    return {(DATA if metric in data else name, metric): interval for metric, interval in found.items()}


def _poisson_loss(responses: Repeats, prediction: Predictions) -> PerNeuron:
    """Return the loss of counts or rates; NaN for neurons whose responses can be negative."""
    prediction = prediction[:, None] if prediction.ndim == 2 else prediction
    # an identity output may undershoot zero, where the loss is not defined
    loss = poisson_loss_numpy(responses, np.maximum(prediction, 0.0), mean_axis=(0, 1))
    return np.where(np.nanmin(responses, axis=(0, 1)) < 0, np.nan, loss)


def _validation_scores(
    recording: Recording,
    members: Mapping[str, SessionPrediction],
    included: Bool[np.ndarray, "neuron"],
    settings: EvaluationSettings,
) -> Iterator[pd.DataFrame]:
    single_trial, _ = CORRELATIONS[settings.formulas]
    groups = {name: [member] for name, member in members.items()} | {ENSEMBLE: list(members.values())}
    for name, group in groups.items():
        rows = np.flatnonzero(held_out_bins(group) & recording.valid)
        if not len(rows):
            continue
        responses = np.asarray(read_rows(recording.responses, rows), np.float64)[:, None]
        prediction, n_members = out_of_fold(group, rows)
        values = {
            (name, "single_trial_correlation"): single_trial(responses, prediction),
            (name, "poisson_loss"): _poisson_loss(responses, prediction),
        }
        nothing = np.full(recording.n_neurons, np.nan)
        without_interval: Values = {key: (value, nothing, nothing) for key, value in values.items()}
        place = ("validation", VALIDATION_TIER)
        bins = rows[:, None]
        yield _frame(recording, without_interval, place, bins, {name: float(n_members.mean())}, included)


def _frame(
    recording: Recording,
    values: Values,
    place: tuple[str, str],
    bins: Int[np.ndarray, "row repeat"],
    n_members: Mapping[str, float],
    included: Bool[np.ndarray, "neuron"],
) -> pd.DataFrame:
    """Return one row per neuron and score; `place` is stimulus and tier, `bins` those scored."""
    columns = {
        "neuron": np.arange(recording.n_neurons),
        "unit_id": recording.neurons["unit_id"].astype(str).to_numpy(),
        "cell_type": recording.neurons["cell_type"].astype(str).to_numpy() if "cell_type" in recording.neurons else "",
        "included": included,
    }
    tables = [
        pd.DataFrame(
            columns | {"predictor": predictor, "metric": metric, "value": value, "ci_low": low, "ci_high": high}
        )
        for (predictor, metric), (value, low, high) in values.items()
    ]
    return pd.concat(tables, ignore_index=True).assign(
        dataset=recording.dataset,
        session=recording.session,
        stimulus=place[0],
        tier=place[1],
        n_bins=bins.shape[0],
        bins_crc32=f"{zlib.crc32(bins.astype('<i8').tobytes()):08x}",
        n_repeats=bins.shape[1],
        n_members=lambda table: table["predictor"].map(n_members).astype(float),
    )
