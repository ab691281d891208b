"""The documents are executed: README, docs/ and the listings of the published documents with the name replaced.

Each document runs in order in one namespace and one empty folder. What a document leaves out (data, imports) stands in
its preamble here, listings are never changed; what is not executed stands in `NOT_EXECUTED` with its reason.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import hydra.utils
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from coread.cli.main import main
from coread.config import analysis_names, compose, config_directory, stage_slice
from coread.data_io.sources import build_recording, list_sessions
from coread.models import BaseCoreReadout, ExampleCoreReadout, UnifiedCoreReadout, is_model_causal, load_member
from tests.conftest import REPOSITORY
from tests.listings import Listing, listings
from tests.models import published_checkpoint

Namespace = dict[str, Any]

# commands of the README and docs by their first words -> why they are not run here
NOT_EXECUTED = {
    "snakemake": "the workflow: tests/workflow, tests/test_rerun.py and tests/cluster run it",
    "make": "builds an environment from the package index, or runs these tests; `make demo` runs the workflow",
    "source": "changes the shell's own environment",
    "sbatch": "needs a cluster: tests/cluster",
    "coread campaign": "needs a running campaign: tests/cli/test_campaign.py and tests/cluster",
    "coread search": "a search of many trainings: tests/search runs it with small ones",
    "coread download": "needs the network: tests/cli/test_download.py runs it against a local server",
    "coread publish": "needs a trained ensemble: tests/models/test_publish.py runs it",
    "coread export-nwb": "needs a recording that the workflow wrote: tests/data_io/test_nwb.py runs it",
    "coread submission": "needs predictions of trained members: tests/eval/test_competition.py runs it",
    "coread visualize": "needs a trained model of its own: tests/cli/test_visualize.py runs it",
    "jupyter": "tests/test_notebooks.py executes the notebooks",
    "pip": "installs packages from an index",
}
LANGUAGES = {"python", "bash", "yaml"}


@dataclass(frozen=True)
class Document:
    """A document, what it leaves out, and what must be true once it has run."""

    path: str
    check: Callable[[Namespace, Path], None]
    preamble: str = ""
    files: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None
    published: bool = False

    def listings(self, reference: Path | None) -> list[Listing]:
        """Return the listings, with the package's name replaced in published documents."""
        if not self.published:
            return listings(REPOSITORY / self.path)
        assert reference is not None
        found = listings(reference / "reference" / "seeds" / self.path)
        return [Listing(each.language, each.text.replace("openretina", "coread"), each.line) for each in found]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder; put back what Hydra's command line changes in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["coread"])
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("COREAD_CACHE_DIRECTORY", str(tmp_path / "cache"))
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level


def execute(document: Document, found: list[Listing], folder: Path) -> Namespace:
    """Run a document in the current folder and return what its Python listings defined."""
    namespace: Namespace = {"__name__": "document"}
    for name, text in document.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for command in document.commands:
        main(command.split()[1:])
    if document.prepare is not None:
        document.prepare(folder)
    exec(compile(document.preamble, f"preamble of {document.path}", "exec"), namespace)
    for listing in found:
        where = f"{document.path}:{listing.line}"
        if listing.language == "python":
            # blank lines so that an error names the line of the document
            exec(compile("\n" * listing.line + listing.text, where, "exec"), namespace)
        elif listing.language == "bash":
            for words in listing.commands():
                if _reason(words) is None:
                    assert words[0] == "coread", f"{where}: {words} is neither executed nor listed with a reason"
                    main(words[1:])
        elif listing.language == "yaml":
            namespace.setdefault("yaml", []).append(yaml.safe_load(listing.text))
            if name := re.match(r"# (configs/\S+\.yaml)\n", listing.text):
                path = folder / name[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(listing.text)
    return namespace


def _reason(words: list[str]) -> str | None:
    return next((NOT_EXECUTED[key] for key in (" ".join(words[:2]), words[0]) if key in NOT_EXECUTED), None)


# ------------------------------------------------------------------------------------------------ published documents

# the dictionaries that "feed the dataloaders", in the shape that the listing says: 50 x 50 pixels, one channel
CONTAINERS = """
import numpy as np
from coread.data_io.base import MoviesTrainTestSplit, ResponsesTrainTestSplit

rng = np.random.default_rng(0)
movies = MoviesTrainTestSplit(
    train=rng.standard_normal((1, 120, 50, 50)).astype(np.float32),
    test=rng.standard_normal((1, 60, 50, 50)).astype(np.float32),
    norm_mean=51.5,
    norm_std=53.6,
)
movies_dictionary = {"15-10-07": movies, "15-11-21a": movies}
responses_dictionary = {
    session: ResponsesTrainTestSplit(train=rng.random((n, 120)), test=rng.random((n, 60)))
    for session, n in {"15-10-07": 9, "15-11-21a": 4}.items()
}
"""


def check_core_readout(namespace: Namespace, folder: Path) -> None:
    model, info = namespace["model"], namespace["data_info"]
    assert isinstance(model, ExampleCoreReadout)
    assert isinstance(model, BaseCoreReadout)
    assert info["n_neurons_dict"] == {"15-10-07": 9, "15-11-21a": 4}
    assert info["input_shape"] == (1, 50, 50)
    assert (info["stim_mean"], info["stim_std"]) == (51.5, 53.6)
    assert {key: model.data_info[key] for key in ("n_neurons_dict", "stim_mean")} == {
        "n_neurons_dict": info["n_neurons_dict"],
        "stim_mean": 51.5,
    }
    for steps in (100, 40):  # "time can be arbitrary"
        stimulus = torch.randn(model.stimulus_shape(steps))
        for session, n in info["n_neurons_dict"].items():
            output = model.eval()(stimulus, session)
            assert output.shape == (1, steps - model.lag, n)
            assert torch.isfinite(output).all()
    assert model(torch.randn(1, 1, 40, 50, 50)).shape == (1, 40 - model.lag, 13)
    # initial biases answer the mean activity that compute_data_info found, through the inverse of the nonlinearity
    for session, mean in info["mean_activity_dict"].items():
        bias = model.readout[session].bias
        torch.testing.assert_close(torch.nn.functional.softplus(bias), mean, rtol=1e-4, atol=1e-5)
    optimizer = model.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam  # "Adam by default"
    check_model_listing(namespace["yaml"][0])


def check_model_listing(excerpt: dict[str, Any]) -> None:
    """The excerpt is part of the shipped file, and `UnifiedCoreReadout` builds it and keeps it in `data_info`."""
    shipped = yaml.safe_load((config_directory() / "model" / "base_core_readout.yaml").read_text())
    for part in ("core", "readout"):
        assert excerpt[part].items() <= shipped[part].items(), part
    assert hydra.utils.get_class(shipped["_target_"]) is UnifiedCoreReadout
    model = UnifiedCoreReadout((1, 40, 24, 24), {"a": 3, "b": 2}, **excerpt, hidden_channels=[4, 6])
    output = model.eval()(torch.randn(2, 1, 40, 24, 24), "b")
    assert output.shape == (2, 40 - 30, 2)
    assert torch.isfinite(output).all()
    assert model.data_info["model_config"]["core"]["temporal_kernel_sizes"] == [21, 11]
    assert model.data_info["model_config"]["readout"]["_target_"] == excerpt["readout"]["_target_"]
    assert is_model_causal(_with_shape(model, (1, 24, 24)))


def _with_shape(model: BaseCoreReadout, shape: tuple[int, int, int]) -> BaseCoreReadout:
    model.data_info["input_shape"] = shape
    return model


def check_unified_training(namespace: Namespace, folder: Path) -> None:
    runs = {
        path.relative_to(folder).parts[1] for path in folder.glob("**/model.ckpt")
    }  # below the run directory, which both commands share
    assert runs == {"my_first_coread_run", "hdf5_core_readout"}
    for path in folder.glob("**/model.ckpt"):
        member = load_member(path)
        assert member.data_info["input_shape"] == [3, 16, 8]
        assert set(member.data_info["n_neurons_dict"]) == {"session_0", "session_1"}
        assert member.data_info["model_config"]["core"]["_target_"] == "coread.modules.core.base_core.SimpleCoreWrapper"
    (tutorial,) = folder.glob("**/hdf5_core_readout/**/model.ckpt")
    main(["evaluate", "--config-name", "hdf5_core_readout", "paths.data_dir=test_data"])
    scores = pd.concat(pd.read_csv(path) for path in folder.glob("**/hdf5_core_readout/scores.csv"))
    tested = scores[(scores["tier"] == "test") & (scores["metric"] == "correlation_to_average")]
    assert set(tested["stimulus"]) == {"random_noise_2", "random_noise_3"}
    # .79 with the tutorial's own length of data; a fifth of it here
    assert tested["value"].mean() > 0.6, tested["value"].mean()
    assert len(load_member(tutorial).history) > 1


# what the document leaves out: it draws with pyplot without importing it; the seed makes its start known
DRAWING = """
import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
"""


def fabricate_first_released_model(folder: Path) -> None:
    """Put a checkpoint of the released architecture where the document's model would be in the cache."""
    sizes = {"session_1_ventral1_20200226": 12}
    with mock.patch.dict(published_checkpoint.SIZES, sizes):
        torch.manual_seed(0)
        content = published_checkpoint.published_content(published_checkpoint.trained_model())
    published_checkpoint.write_checkpoint(folder / "cache" / "hoefling_2024_base_low_res.ckpt", content)


def check_insilico_listings(namespace: Namespace, folder: Path) -> None:
    stimulus, objective, model = namespace["stimulus"], namespace["objective"], namespace["model"]
    assert stimulus.shape == (1, 2, 30, 18, 16)
    assert torch.isfinite(stimulus).all()
    assert 0 <= stimulus.min() <= stimulus.max() <= 1
    torch.manual_seed(0)
    namespace["load_core_readout_from_remote"]("hoefling_2024_base_low_res", "cpu")
    start = torch.randn(model.stimulus_shape(time_steps=30, num_batches=1)).clamp(0, 1)
    with torch.no_grad():
        assert objective.forward(stimulus) > objective.forward(start) + 0.01, "optimisation raises the response"
    assert all(parameter.grad is None for parameter in objective.model.parameters())

    fields = namespace["receptive_fields"]
    assert fields.shape == (14, 64, 64)
    assert np.isfinite(fields).all()
    assert (np.abs(fields[:12]).max(axis=(1, 2)) > 0.5).all(), "a receptive field for each of the 12 panels"
    drawn = [axes for axes in namespace["axes"].flat if axes.images]
    assert [axes.get_title() for axes in drawn] == [f"Neuron {i}" for i in range(12)]

    # `mean(dim=0)` is over the batch of one stimulus: the listing keeps time, and docs/insilico.md has it corrected
    results, frequencies = namespace["results"], namespace["frequencies"]
    assert results.shape == (20, 30, 14)
    assert np.isfinite(results).all()
    table = np.concatenate(
        [
            model(namespace["generate_gratings"](model.stimulus_shape(time_steps=30), frequency)).detach().mean(dim=1)
            for frequency in frequencies
        ]
    )
    np.testing.assert_allclose(results.mean(axis=1), table, rtol=1e-4, atol=1e-6)
    assert table.shape == (20, 14), "(parameter, neuron)"
    assert (table.std(axis=0) > 0).any()
    namespace["plt"].close("all")


PUBLISHED = [
    Document("core_readout.md", check_core_readout, preamble=CONTAINERS, published=True),
    Document("training_overview.md", lambda namespace, folder: None, published=True),
    Document(
        "insilico.md",
        check_insilico_listings,
        preamble=DRAWING,
        prepare=fabricate_first_released_model,
        published=True,
    ),
    Document(
        "unified_training.md",
        check_unified_training,
        # "Create an outer config: place a YAML file in configs/", with the data of the walkthrough, shorter
        files={
            "configs/your_outer_config_name.yaml": "defaults: [hdf5_core_readout, _self_]\n"
            "paths: {data_dir: test_data}\ntrainer: {max_epochs: 1}\n"
        },
        commands=("coread create-data test_data --clip-length 10",),
        published=True,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("document", PUBLISHED, ids=lambda document: document.path)
def test_the_listings_of_a_published_document(document: Document, reference_data: Path, tmp_path: Path) -> None:
    document.check(execute(document, document.listings(reference_data), tmp_path), tmp_path)


def test_every_documented_config_exists(reference_data: Path) -> None:
    (tree,) = [each.text for each in PUBLISHED[-1].listings(reference_data) if each.text.startswith("configs/")]
    folders: list[str] = []
    for line in tree.splitlines()[1:]:
        depth, name = re.match(r"((?:[│ ]   )*)[├└]── (\S+)", line).groups()  # type: ignore[union-attr]
        folders = [*folders[: len(depth) // 4], name.rstrip("/")]
        path = config_directory().joinpath(*folders)
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        assert not path.is_dir() or list(path.glob("*.yaml")), f"{path} is empty"
    # named in the texts
    for name in ("hoefling_2024_core_readout_high_res", "hoefling_2024_core_readout_low_res", "hdf5_core_readout"):
        assert stage_slice(compose(name), "train")["model"]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("coread.models.core_readout", ["BaseCoreReadout", "UnifiedCoreReadout", "ExampleCoreReadout"]),
        ("coread.modules.core.base_core", ["SimpleCoreWrapper"]),
        ("coread.modules.readout.multi_readout", ["MultiGaussianReadoutWrapper", "MultiGaussianMaskReadout"]),
        ("coread.modules.readout", ["SplineMaskReadout", "GaussianMaskReadout"]),  # "... to spline-based mappings"
        ("coread.modules.layers.convolutions", ["STSeparableBatchConv3d"]),
        ("coread.modules.layers.regularizers", []),
        ("coread.modules.losses", ["PoissonLoss3d", "CorrelationLoss3d"]),
        ("coread.data_io.base", ["MoviesTrainTestSplit", "ResponsesTrainTestSplit", "compute_data_info"]),
        ("coread.data_io.cyclers", ["LongCycler", "ShortCycler"]),
        ("coread.data_io.base_dataloader", ["multiple_movies_dataloaders", "DataPoint"]),
        ("coread.models", ["load_core_readout_from_remote", "load_core_readout_model"]),
        ("coread.insilico", ["visualize_receptive_fields"]),
        ("coread.insilico.stimulus_optimization.objective", ["IncreaseObjective", "MeanReducer"]),
        ("coread.insilico.stimulus_optimization.optimization_stopper", ["OptimizationStopper"]),
        ("coread.insilico.stimulus_optimization.optimizer", ["optimize_stimulus"]),
        ("coread.insilico.stimulus_optimization.regularizer", ["TotalVariationRegularizer", "ClipStimulus"]),
        ("coread.insilico.tuning_analyses", []),
        ("coread.data_io.artificial_stimuli", ["generate_gratings"]),
        ("coread.cli.train", ["main"]),
        ("coread.eval", []),
    ],
)
def test_every_documented_name_exists(module: str, names: list[str]) -> None:
    imported = __import__(module, fromlist=names or ["__name__"])
    for name in names:
        assert getattr(imported, name).__name__, name


def test_the_documented_training_options_exist() -> None:
    trainer = yaml.safe_load((config_directory() / "trainer" / "default.yaml").read_text())
    assert trainer["accumulate_grad_batches"] == 1  # "gradient accumulation"
    loggers = {path.stem for path in (config_directory() / "logger").glob("*.yaml")}
    assert {"tensorboard", "wandb", "csv"} <= loggers
    arguments = BaseCoreReadout.__init__.__annotations__
    assert {"core", "readout", "learning_rate", "loss", "correlation_loss"} <= set(arguments)


# --------------------------------------------------------------------------------------------------- our own documents


def check_nothing(namespace: Namespace, folder: Path) -> None:
    """For documents without listings."""
    assert list(namespace) == ["__name__", "__builtins__"]


def check_data(namespace: Namespace, folder: Path) -> None:
    info = namespace["data_info"]
    assert info["n_neurons_dict"] == {"session_a": 2, "session_b": 3}
    held_in = namespace["held_in"]["session_b"]
    assert (~held_in).sum() == 180
    expected = namespace["responses_dictionary"]["session_b"].train[:, held_in].mean(1)
    np.testing.assert_allclose(info["mean_activity_dict"]["session_b"], expected, rtol=1e-5)
    assert namespace["inputs"].shape[1:] == (1, 30, 12, 10)
    assert namespace["targets"].shape[1] == 30
    assert namespace["n_validation"] == 4
    assert np.shares_memory(namespace["movies_again"]["session_a"].train, namespace["train"])
    np.testing.assert_array_equal(
        namespace["again"]["session_a"].test_by_trial_dict["test"],
        namespace["responses_dictionary"]["session_a"].test_by_trial_dict["test"],
    )
    assert namespace["tutorial_movies"]["session_0"].train.shape == (3, 1410, 16, 8)


def check_training(namespace: Namespace, folder: Path) -> None:
    assert (folder / "my_model.ckpt").is_file()
    by_command = load_member(next(folder.glob("results/my_experiment/**/model.ckpt")))
    for name, value in namespace["member"].model.state_dict().items():
        assert torch.equal(value, by_command.model.state_dict()[name]), name
    scores = namespace["scores"]
    tested = scores[(scores["tier"] == "test") & (scores["metric"] == "correlation_to_average")]
    assert tested["value"].mean() > 0.6, tested["value"].mean()
    assert (folder / "results" / "my_experiment" / "scores.csv").is_file()
    assert np.isfinite(float(namespace["trainer"].callback_metrics["val_correlation"]))


def fabricate_released_model(folder: Path) -> None:
    """Put a checkpoint of the released architecture where the released one would be in the cache."""
    torch.manual_seed(0)
    content = published_checkpoint.published_content(published_checkpoint.trained_model())
    published_checkpoint.write_checkpoint(folder / "cache" / "hoefling_2024_low_res.ckpt", content)


def check_models(namespace: Namespace, folder: Path) -> None:
    output = namespace["output"]
    assert output.shape == (1, 100 - namespace["model"].lag, 3)
    assert torch.isfinite(output).all()
    unified = namespace["unified"]
    assert unified.data_info["model_config"]["hidden_channels"] == [8, 8]
    assert namespace["is_causal"]
    released = namespace["released"]
    assert not released.training
    assert released.lag == 30
    assert is_model_causal(released)
    assert namespace["stimulus"].shape == (1, 2, 50, 18, 16)
    torch.manual_seed(0)
    original = published_checkpoint.trained_model()
    torch.testing.assert_close(
        namespace["released_output"], original(namespace["stimulus"], released.readout.readout_keys()[0])
    )


def check_insilico(namespace: Namespace, folder: Path) -> None:
    population = namespace["population"]
    assert namespace["response"].shape == (1, 1, 20, 3)
    assert torch.isfinite(namespace["response"]).all()
    tuning = namespace["tuning"]
    assert tuning.shape == (len(namespace["frequencies"]), 5), "(parameter, neuron), the neurons of all sessions"
    assert np.isfinite(tuning).all()
    settings = next(content for content in namespace["yaml"] if "_target_" in content)
    experiment = namespace["ContrastSteps"](**{key: settings[key] for key in ("contrasts", "step_s")})
    result = experiment.run(population, np.array([0, 2]))
    assert result.table["neuron"].tolist() == [0, 2]
    assert result.table["preferred_contrast"].isin(settings["contrasts"]).all()
    (drawing,) = experiment.draw({population.session: result}).values()
    assert "2 neurons" in drawing.caption
    page = (REPOSITORY / "docs" / "insilico.md").read_text(encoding="utf-8")
    for name in analysis_names():
        assert f"`{name}`" in page, f"docs/insilico.md does not name the analysis {name}"


def check_cortex(namespace: Namespace, folder: Path) -> None:
    best = namespace["best"]
    assert 0.5 < best["gain and history"] < min(best["gain"], best["history"])
    assert max(best["gain"], best["history"]) < best["nothing"] < 1
    assert 0 < namespace["recording"].session_info["time_ties"] < namespace["recording"].n_bins
    config = stage_slice(compose("my_lab_baseline", directory=folder / "configs"), "data")["data_io"]
    assert list_sessions(config, folder / "my_data") == ["cortex-1-1", "cortex-2-1"]
    chosen = build_recording(config, "cortex-1-1", folder / "my_data")
    assert chosen.neurons["unit_id"].tolist() == [2, 6, 11]
    assert set(chosen.neurons["area"]) == {"V1"}
    assert (chosen.dataset, chosen.trials["tier"].nunique()) == ("my_lab", 3)
    overrides = [
        "++data_io.behaviour.units={cortex-1-1: {factor: [0.25, 2, -8]}}",
        "data_io.competition_sessions=[cortex-1-1]",
    ]
    page = (REPOSITORY / "docs" / "cortex.md").read_text(encoding="utf-8")
    assert all(f"`{override}`" in page for override in overrides)
    simulated = compose("simulated_cortex_baseline", overrides).data_io
    assert list(simulated.behaviour.units["cortex-1-1"].factor) == [0.25, 2, -8]
    assert list(simulated.competition_sessions) == ["cortex-1-1"]


def check_readme(namespace: Namespace, folder: Path) -> None:
    assert len(namespace["member"].history) == 3
    assert set(namespace["member"].data_info["n_neurons_dict"]) == {"retina_0", "retina_1"}
    scores = pd.read_csv(folder / "results" / "my_first" / "scores.csv")
    tested = scores[(scores["tier"] == "test") & (scores["metric"] == "correlation_to_average")]
    assert tested["value"].mean() > 0.75
    wide = compose("simulated_retina_wide", directory=folder / "configs")
    assert list(wide.model.hidden_channels) == [32, 64]


OWN = [
    Document("docs/index.md", check_nothing),
    Document("docs/published_defects.md", check_nothing),
    Document("docs/scaling.md", check_nothing),
    Document("docs/data.md", check_data),
    Document("docs/training.md", check_training),
    Document("docs/models.md", check_models, prepare=fabricate_released_model),
    Document("docs/cortex.md", check_cortex),
    Document("docs/insilico.md", check_insilico, prepare=fabricate_released_model),
    Document("README.md", check_readme, preamble="from pathlib import Path"),
]


@pytest.mark.slow
@pytest.mark.parametrize("document", OWN, ids=lambda document: document.path)
def test_the_listings_of_our_documents(document: Document, tmp_path: Path) -> None:
    document.check(execute(document, document.listings(None), tmp_path), tmp_path)


def test_every_document_is_executed() -> None:
    pages = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").glob("**/*.md")}
    assert {*pages, "README.md"} == {document.path for document in OWN}


def test_every_block_is_executed_or_has_a_reason() -> None:
    for document in OWN:
        for listing in document.listings(None):
            where = f"{document.path}:{listing.line}"
            if listing.language in ("", "mermaid"):  # pictures and layouts of folders
                continue
            assert listing.language in LANGUAGES, where
            for words in listing.commands() if listing.language == "bash" else []:
                assert words[0] == "coread" or _reason(words), f"{where}: {words}"


def test_links_between_documents_lead_somewhere() -> None:
    for path in [REPOSITORY / document.path for document in OWN]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name}: {target}"
