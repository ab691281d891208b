import base64
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from coread.attempts import COLUMNS, NUMBERS, WITHOUT_A_WORD
from coread.data_io.quality_filters import session_info_of
from coread.eval.comparison import Comparison, write_comparison
from coread.eval.predictions import write_predictions
from coread.eval.scores import score_experiment, write_scores
from coread.eval.tables import summarize, write_tables
from coread.insilico.experiment import ExperimentResult, write_results
from coread.insilico.receptive_fields import write_receptive_fields
from coread.plotting import write_figures
from coread.plotting.analyses import write_analysis_figures
from coread.plotting.movies import Movie
from coread.plotting.style import FULL_WIDTH_IN, Drawing, save_drawing
from coread.provenance import file_sha256
from coread.recording import digest_path, write_recording
from coread.report import write_report
from coread.report.contents import _neuron_table
from coread.report.loss_terms import loss_term_table
from coread.report.tables import overview_rows
from tests.results import CONFIG, N_NEURONS, make_fields, make_histories, make_predictions, make_recording, make_scores
from tests.static_images import EVALUATION
from tests.static_images import make_predictions as make_image_predictions
from tests.static_images import make_recording as make_image_recording

NAMES = ["first_model", "second_model"]
TRAIN_SLICE = "model:\n  _target_: toy.models.ToyModel\n  core:\n    _target_: toy.Core\n  comment: 'a < b & c'\n"
TRAINED_WITH = {"coread": "0.1.0 (abc)", "torch": "2.0.1+x", "device": "cuda", "precision": "bf16-mixed"}
DATA_CONFIG = "dataset: toy\nseed: 4711\ntest_names: [probe]\n"


class Page(HTMLParser):
    """What a reader sees and what a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table, self._cell = "", False
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag in ("img", "script", "link", "iframe"):
            self.sources += [str(values[key]) for key in ("src", "href") if key in values]
        if tag == "table":
            self._table = str(values["id"])
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        self._cell = tag in ("td", "button")
        if self._cell:
            self.tables[self._table][-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell and self._table:
            self.tables[self._table][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._cell = False


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two experiments, the second without figures, receptive fields or learning curves."""
    folder = tmp_path_factory.mktemp("results")
    recording, histories = make_recording(), make_histories()
    write_recording(recording, folder / "data" / "toy" / "a.h5")
    (folder / "data" / "toy" / "config.yaml").write_text(DATA_CONFIG)
    for name in NAMES:
        place, predictions, scores = folder / name, make_predictions(name), make_scores(name)
        write_scores(scores, place / "scores.csv")
        for member in predictions:
            member_place = place / f"fold{member.fold}" / f"seed{member.seed}"
            write_predictions(member, member_place / "predictions.h5")
            history = histories[member.name] if name == NAMES[0] else histories[member.name].iloc[:0]
            trained_with = {"trained_with": TRAINED_WITH} if member.seed == 0 else {}
            content = {"fold": member.fold, "seed": member.seed, "coread_version": "0.0.9", "data_info": trained_with}
            weights = {"weight": torch.zeros(1234)}
            torch.save(
                content | {"history": history.to_dict("list"), "state_dict": weights}, member_place / "model.ckpt"
            )
        (place / "config").mkdir()
        (place / "config" / "train.yaml").write_text(TRAIN_SLICE)
        if name == NAMES[0]:
            fields = make_fields()
            write_receptive_fields(fields, place / "receptive_fields.h5", place / "receptive_fields.csv")
            write_figures(
                place / "figures",
                scores=scores,
                histories=histories,
                recordings=[recording],
                predictions=predictions,
                fields=fields,
            )
    write_tables([folder / name / "scores.csv" for name in NAMES], folder / "tables", CONFIG)
    return folder


def write(
    results: Path,
    attempts: pd.DataFrame | None = None,
    comparisons: dict[str, Any] | None = None,
    analyses: dict[str, list[str]] | None = None,
) -> str:
    path = results / "report.html"
    recordings = {name: [results / "data" / "toy" / "a.h5"] for name in NAMES}
    members = {name: sorted((results / name).glob("fold*/seed*/model.ckpt")) for name in NAMES}
    write_report(path, NAMES, results, recordings, members, attempts, comparisons, analyses)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(results: Path) -> str:
    return write(results)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_fetched_from_anywhere(page: Page, text: str) -> None:
    assert page.sources
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"url\(|@import|https?://", text)


def test_every_entry_of_the_contents_leads_somewhere(page: Page) -> None:
    targets = [link.removeprefix("#") for link in page.links]
    assert {"overview", "first_model", "first_model-receptive_fields", "second_model-config", "provenance"} <= set(
        targets
    )
    assert set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_figures_are_embedded_with_their_captions(page: Page, results: Path) -> None:
    figures = results / "first_model" / "figures"
    images = [source for source in page.sources if source.startswith("data:image/png")]
    assert len(images) == 5
    decoded = [base64.b64decode(image.split(",", 1)[1]) for image in images]
    shown = "".join(page.words)
    for path in figures.glob("*.png"):
        assert path.read_bytes() in decoded
        assert path.with_suffix(".txt").read_text().strip() in shown


def test_the_overview_holds_the_ensembles_numbers(page: Page, results: Path) -> None:
    header, *rows = page.tables["overview-table"]
    assert [row[:2] for row in rows] == [[name, "probe"] for name in NAMES]
    scores = make_scores()
    chosen = scores[
        (scores["predictor"] == "ensemble") & (scores["metric"] == "correlation_to_average") & scores["included"]
    ]
    cell = rows[0][header.index("correlation to average")]
    assert cell.startswith(f"{chosen['value'].mean():.3f}")
    assert rows[0][header.index("n")] == str(len(chosen))
    assert rows[0][header.index("excluded")] == str(N_NEURONS - len(chosen))


def test_a_mean_over_fewer_neurons_than_its_row_names_their_number() -> None:
    scores = make_scores()
    chosen = scores["included"] & (scores["metric"] == "feve") & (scores["neuron"] == 0)
    assert chosen.any()
    summary = summarize(scores.assign(value=scores["value"].mask(chosen)), CONFIG)
    table = overview_rows(summary)
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    n = int(cells["n"].text)
    assert cells["FEVE"].detail.endswith(f"\nn\u00a0=\u00a0{n - 1}")
    assert "n\u00a0=" not in cells["correlation to average"].detail


def test_no_number_is_shown_twice_and_validation_is_called_optimistic(page: Page) -> None:
    header, *rows = page.tables["first_model-summary-table"]
    metrics = {row[header.index("metric")] for row in rows}
    assert "fraction of ceiling" in metrics
    assert "normalized correlation" not in metrics
    shown = "".join(page.words)
    # differences, one summary per experiment
    assert shown.count("bins that chose the best epoch of each member, so that they are optimistic") == 3
    assert shown.count("these bins chose them, so that the values are optimistic") == 1, "learning curves"
    assert shown.count("chosen by this very number, so that it is optimistic") == len(NAMES), "members"


def test_every_neuron_has_a_row_with_its_receptive_field_where_there_is_one(page: Page) -> None:
    header, *rows = page.tables["first_model-neurons-table"]
    assert [row[header.index("unit id")] for row in rows] == [f"unit_{i}" for i in range(N_NEURONS)]
    assert [row[header.index("polarity")] for row in rows] == ["ON", "OFF"] * (N_NEURONS // 2)
    assert rows[-1][header.index("included")] == "no"
    assert "diameter px" not in header, "micrometres are known"
    assert "polarity" not in page.tables["second_model-neurons-table"][0]


def test_members_configuration_and_checksums_are_told(page: Page, results: Path, text: str) -> None:
    header, first, second = page.tables["first_model-members-table"]
    told = dict(zip(header, first, strict=True))
    assert {name: told[name] for name in TRAINED_WITH} == TRAINED_WITH
    unrecorded = dict(zip(header, second, strict=True))
    assert (unrecorded["coread"], unrecorded["torch"], unrecorded["device"]) == ("0.0.9", "", "")
    assert (told["member"], told["parameters"], told["best epoch"]) == ("fold0_seed0", "1,234", "4")
    assert (told["validation correlation"], told["training time (s)"]) == ("0.600", "9.0")
    assert "comment: &#39;a &lt; b &amp; c&#39;" in text, "configuration is shown, not interpreted"
    for name in NAMES:
        configuration = text[text.index(f'id="{name}-config"') : text.index(f'id="{name}-files"')]
        assert f"<summary>data</summary><pre>{DATA_CONFIG}</pre>" in configuration
    files = {row[0]: row[1] for row in page.tables["first_model-files-table"][1:]}
    recording = results / "data" / "toy" / "a.h5"
    assert files["data/toy/a.h5"] == digest_path(recording).read_text().strip()
    for name in ("scores.csv", "fold0/seed1/model.ckpt", "fold0/seed0/predictions.h5", "config/train.yaml"):
        assert files[f"first_model/{name}"] == file_sha256(results / "first_model" / name)
    assert files["data/toy/config.yaml"] == file_sha256(results / "data" / "toy" / "config.yaml")
    assert str(results) not in text, "no folder of this machine is named"
    shown = "".join(page.words)
    assert "Dataset toy (axolotl): 8 neurons in 1 session, spike count at 30 bins per second." in shown
    assert "Model ToyModel (Core); 2 members" in shown


def test_paired_differences_are_shown_for_experiments_that_share_a_dataset(page: Page) -> None:
    rows = page.tables["differences-table"][1:]
    assert rows
    assert {row[0] for row in rows} == {"first_model − second_model"}  # noqa: RUF001
    assert all(row[4].startswith("+0.000") for row in rows)


def test_comparisons_are_shown_with_their_published_values(results: Path, page: Page) -> None:
    rows = [{"experiment": NAMES[1], "label": "base", "published": 0.4}, {"experiment": NAMES[0], "published": 0.5}]
    config = {"title": "Both models", "baseline": NAMES[1], "rows": rows, "published_source": "A paper."}
    (results / NAMES[1] / "config" / "evaluate.yaml").write_text(yaml.safe_dump({"evaluation": CONFIG}))
    paths = [results / name / "scores.csv" for name in NAMES]
    write_comparison(Comparison.from_config("both", config), paths, [CONFIG] * 2, results / "tables")
    shown = Page(write(results, comparisons={"both": config}))
    header, base, other = shown.tables["comparison-both-table-1"]
    assert header == ["experiment", "single-trial correlation", "change", "published", "published change", "n"]
    assert (base[0], base[2], base[3]) == ("base", "baseline", "0.400")
    assert (other[0], other[2], other[4]) == (NAMES[0], "+0.0 % [+0.0, +0.0]", "+25.0 %")
    assert "#comparison-both" in shown.links
    assert any("A paper." in words for words in shown.words)
    assert not any("comparison" in name for name in page.ids)


def test_a_neuron_that_only_some_metrics_leave_out_is_one_row() -> None:
    recording = make_image_recording()
    config = EVALUATION | {"explainable_variance_threshold": 0.4}
    scores = score_experiment([recording], make_image_predictions([recording]), config)
    feve = scores[(scores["predictor"] == "ensemble") & (scores["metric"] == "feve")].set_index("neuron")
    assert set(feve["included"]) == {True, False}
    table = _neuron_table(scores, None)
    column = table.columns.index("included")
    assert [row[column].text for row in table.rows] == ["yes" if one else "no" for one in feve["included"]]


def attempt(job: str, number: int, **facts: object) -> dict[str, object]:
    """One row of the table of attempts."""
    rule, _, member = job.partition("/")
    started = pd.Timestamp("2026-01-02T03:04:05Z") + pd.Timedelta(minutes=number)
    known = {"rule": rule, "member": member, "job": job, "attempt": number, "state": "done", "started": started}
    empty = dict.fromkeys(COLUMNS) | {"is_retry": False, "last_lines": [], "host": "laptop"}
    return empty | known | {"log": f"logs/{job}.attempt-{number}.log"} | facts


def test_jobs_are_told_with_what_they_used_and_why_they_failed(results: Path) -> None:
    member = "train_member/toy/fold0/seed0"
    killed = {"state": "failed", "exit": 137.0, "signal": "SIGKILL", "reason": "out of memory? <b>", "node": "g1"}
    rows = [
        attempt(member, 1, **killed, job_id="7", wait_s=30.0, seconds=65.0, peak_memory_mb=900.0, mem_mb=1000.0),
        attempt(member, 2, state="lost", reason=WITHOUT_A_WORD, last_lines=["epoch 3", "a < b"], is_retry=True),
        attempt(member, 3, wait_s=90.0, seconds=7300.0, peak_memory_mb=800.0, mem_mb=2000.0, is_retry=True),
        attempt("write_report", 1, state="running"),
    ]
    frame = pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float))
    text = write(results, frame)
    page = Page(text)
    assert {"campaign", "failures-table"} <= set(page.ids)
    assert "#campaign" in page.links
    header, trained, reported = page.tables["campaign-table"]
    told = dict(zip(header, trained, strict=True))
    counts = {"jobs": "1", "attempts": "3", "running": "0", "retries": "2", "failed": "1", "lost": "1"}
    assert {name: told[name] for name in counts} == counts
    assert told["waited, median"] == "1 min 00 s"
    assert "longest 1 min 30 s" in page.words
    assert (told["ran, median"], told["ran, total"]) == ("2 h 01 min", "2 h 02 min")
    assert told["peak memory (MB)"] == "900"
    assert {"of 1,000", "SIGKILL"} <= set(page.words)
    assert not any("GPU" in name for name in header), "there was none"
    assert dict(zip(header, reported, strict=True))["running"] == "1"
    header, lost, failed = page.tables["failures-table"]
    assert dict(zip(header, lost, strict=True))["reason"] == WITHOUT_A_WORD
    assert failed == [member, "1", "g1", "137", "1 min 05 s", "out of memory? <b>"]
    assert {f"logs/{member}.attempt-1.log", "job 7"} <= set(page.words)
    assert "<pre>epoch 3\na &lt; b</pre>" in text


def test_a_report_without_records_of_jobs_has_no_section_on_them(results: Path, page: Page) -> None:
    assert "campaign" not in page.ids
    assert "campaign" not in Page(write(results, pd.DataFrame(columns=COLUMNS))).ids


def test_a_missing_member_is_named(results: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere\.ckpt"):
        write_report(
            results / "other.html",
            NAMES[:1],
            results,
            {NAMES[0]: [results / "data" / "toy" / "a.h5"]},
            {NAMES[0]: [results / "nowhere.ckpt"]},
        )
    assert not (results / "other.html").exists()


def test_what_quality_filters_removed_is_told_with_all_sessions_first(results: Path, page: Page) -> None:
    assert not any("quality" in name for name in page.ids)
    folder = results / "data" / "toy"
    left = folder / "quality.csv"  # by earlier settings: the recordings were made without filters
    left.write_text("session,step,n_before,n_removed,n_kept\na,cell_type,90,20,70\n")
    assert not any("quality" in name for name in Page(write(results)).ids)
    counts = pd.DataFrame({"step": ["cell_type", "quality"], "n_before": [9000, 70], "n_removed": [8930, 66]})
    try:
        write_recording(replace(make_recording(), session_info=session_info_of(counts)), folder / "a.h5")
        text = write(results)
        table = Page(text).tables["first_model-quality-table"]
    finally:
        left.unlink()
        write_recording(make_recording(), folder / "a.h5")
    assert "A session in which no cell passes is no recording: its cells are in no row, the sums included." in text
    assert table == [
        ["session", "step", "cells before", "removed", "left"],
        ["all sessions", "cell_type", "9,000", "8,930", "70"],
        ["all sessions", "quality", "70", "66", "4"],
        ["a", "cell_type", "9,000", "8,930", "70"],
        ["a", "quality", "70", "66", "4"],
    ]


def test_the_size_of_every_loss_term_is_shown_and_inert_ones_are_marked(tmp_path: Path) -> None:
    paths = []
    for number, loss in enumerate((2.0, -4.0)):  # a Poisson loss may be negative
        history = pd.DataFrame(
            {
                "epoch": [0, 1],
                "train_loss": [9.0, loss],
                "train_penalty": [9.0, 0.1],
                "train_penalty_core_temporal": [9.0, 0.02 * abs(loss)],
                "train_penalty_readout_mask": [9.0, 2e-9],
            }
        )
        paths.append(tmp_path / f"{number}.ckpt")
        torch.save({"history": history.to_dict("list")}, paths[-1])
    table = loss_term_table(paths)
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["data loss", "-1", "100 %", ""],
        ["core temporal", "0.06", "2 %", ""],
        ["readout mask", "2e-09", "7.5e-08 %", "inert"],
    ]
    assert "mean over 2 members" in table.caption
    torch.save({"history": history[["epoch", "train_loss"]].to_dict("list")}, paths[0])
    assert loss_term_table(paths[:1]) is None


# --------------------------------------------------------------------------------------------------- in-silico analyses


class Flicker:
    """An experiment that has two figures and a movie to show."""

    def run(self, population: Any, neurons: np.ndarray) -> ExperimentResult:
        raise NotImplementedError

    def draw(self, results: Mapping[str, ExperimentResult]) -> dict[str, Drawing]:
        figure = Figure(figsize=(FULL_WIDTH_IN, 1.0))
        half = Figure(figsize=(FULL_WIDTH_IN / 2, 1.0))
        return {"traces": Drawing(figure, "Traces of 3 neurons."), "latency": Drawing(half, "Latency of 3 neurons.")}

    def animate(self, results: Mapping[str, ExperimentResult]) -> dict[str, Movie]:
        frames = np.linspace(-1, 1, 12).reshape(4, 1, 1, 3)
        return {"stimulus": Movie(frames, 10.0, "What was shown.")}


FLICKER = pd.DataFrame(
    {
        "session": "a",
        "neuron": [0, 1, 2],
        "unit_id": ["u0", "u1", "u2"],
        "latency_s": [0.05, 0.1234567, np.nan],
        "latency_s_sd_members": [0.001, 0.2, np.nan],
        "latency_s_uncertain": [False, True, False],
    }
)
COMPARED = pd.DataFrame(
    {
        "session": "a",
        "neuron": [0, 1, 0],
        "unit_id": ["u0", "u1", "u0"],
        "cell_type": "on",
        "quantity": ["latency", "latency", "direction"],
        "analysis": "flicker",
        "truth": [0.05, 0.06, 90.0],
        "found": [0.05, np.nan, 104.0],
        "error": [0.0, np.nan, 14.0],
        "tolerance": [0.01, 0.01, 20.0],
        "unit": ["s", "s", "deg"],
        "passed": [True, False, True],
    }
)
CONSISTENT = pd.DataFrame(
    {"experiment": "flicker", "quantity": ["latency_s", "slope"], "icc": [0.93, 0.2], "uncertain": [False, True]}
)


@pytest.fixture(scope="module")
def insilico_page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    """The page of the same results with an analysis of the first experiment, compared with truth and over members."""
    folder = tmp_path_factory.mktemp("insilico") / "results"
    shutil.copytree(results, folder)
    place = folder / NAMES[0]
    table = {"a": ExperimentResult(FLICKER)}
    members = {"fold0_seed0": "0" * 64, "fold0_seed1": "1" * 64}
    origin = {"settings": {"_target_": "toy.Flicker", "contrast": 0.5}, "members": members}
    write_results(table, place / "flicker.h5", place / "flicker.csv", origin)
    write_analysis_figures(place / "insilico" / "flicker" / "figures", Flicker(), table, ("gif",))
    (place / "config" / "insilico").mkdir()
    (place / "config" / "insilico" / "flicker.yaml").write_text("_target_: toy.Flicker\ncontrast: 0.5\n")
    for name, compared in (("truth", COMPARED), ("consistency", CONSISTENT)):
        (place / "insilico" / name).mkdir()
        compared.to_csv(place / "insilico" / name / "comparison.csv", index=False)
        save_drawing(Drawing(Figure(figsize=(2, 1)), f"All of {name}."), place / "insilico" / name / "comparison")
    return Page(write(folder, analyses={NAMES[0]: ["flicker"]})), place


def test_figures_and_movies_of_an_analysis_are_embedded_in_their_order(insilico_page: tuple[Page, Path]) -> None:
    page, place = insilico_page
    figures = place / "insilico" / "flicker" / "figures"
    ids = [name for name in page.ids if name.startswith("first_model-insilico-flicker-") and "table" not in name]
    assert [name.rsplit("-", 1)[1] for name in ids] == ["traces", "latency", "stimulus"]
    assert "#first_model-insilico-flicker" in page.links
    embedded = [base64.b64decode(source.split(",", 1)[1]) for source in page.sources if source.startswith("data:image")]
    for name in ("traces.png", "latency.png", "stimulus.gif"):
        assert (figures / name).read_bytes() in embedded, name
    shown = "".join(page.words)
    for caption in ("Figure 1.6. Traces of 3 neurons.", "Figure 1.7. Latency", "Movie 1.8. What was shown. (black to"):
        assert caption in shown
    assert "3 neurons in 1 session, 2 members; computed by toy.Flicker." in shown
    assert all(source.startswith("data:") for source in page.sources)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_a_value_stands_with_its_spread_over_members_and_its_unit(insilico_page: tuple[Page, Path]) -> None:
    page, _ = insilico_page
    header, *rows = page.tables["first_model-insilico-flicker-table-1"]
    assert header == ["session", "neuron", "unit id", "latency (s)"]
    assert [row[2:] for row in rows] == [["u0", "0.05"], ["u1", "0.123"], ["u2", ""]]
    told = [words for words in page.words if words.startswith("± ")]
    assert told == ["± 0.001", "± 0.2, uncertain"]
    assert any("standard deviation over members" in words for words in page.words)


def test_the_comparison_with_the_truth_names_every_miss_first(insilico_page: tuple[Page, Path]) -> None:
    page, _ = insilico_page
    header, *rows = page.tables["first_model-insilico-truth-table-1"]
    told = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["quantity"], row["within"], row["not found"]) for row in told] == [
        ("latency", "1 of 2", "1"),
        ("direction", "1 of 1", "0"),
    ]
    assert told[1]["largest error"] == "14"
    header, first, *others = page.tables["first_model-insilico-truth-table-2"]
    assert dict(zip(header, first, strict=True)) | {"unit id": "u1", "found": "", "within": "no"} == dict(
        zip(header, first, strict=True)
    )
    assert [row[-1] for row in others] == ["yes", "yes"]
    assert any("3 quantities of 2 simulated neurons" in words and "1 misses its" in words for words in page.words)


def test_quantities_that_differ_between_members_are_counted(insilico_page: tuple[Page, Path]) -> None:
    page, _ = insilico_page
    assert page.tables["first_model-insilico-consistency-table-1"][1:] == [
        ["flicker", "latency_s", "0.93", "no"],
        ["flicker", "slope", "0.2", "yes"],
    ]
    assert any("2 quantities of all analyses; 1 differs between members and is" in words for words in page.words)
    assert "second_model-insilico-consistency" not in page.ids


def test_settings_and_checksums_of_an_analysis_are_told(insilico_page: tuple[Page, Path]) -> None:
    page, place = insilico_page
    files = {row[0]: row[1] for row in page.tables["first_model-files-table"][1:]}
    for name in ("flicker.h5", "flicker.csv", "config/insilico/flicker.yaml"):
        assert files[f"first_model/{name}"] == file_sha256(place / name)
    shown = "".join(page.words)
    assert "insilico: flicker" in shown
    assert "fold0_seed1: '" + "1" * 64 in shown


def test_a_missing_analysis_is_named(results: Path) -> None:
    with pytest.raises(OSError, match=r"nothing\.csv"):
        write(results, analyses={NAMES[0]: ["nothing"]})
