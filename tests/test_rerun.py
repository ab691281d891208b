"""What re-runs when: a table of edits after a finished run, each with the exact jobs that may follow."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from coread.data_io.sources import READERS
from coread.models.member import load_member
from coread.signatures import NO_NUMBERS, deciding_code
from tests.campaign import WORKFLOW, Campaign, Jobs

TABLES: Jobs = {"write_tables": 1, "write_report": 1}
EVALUATED: Jobs = {"score_experiment": 1, "draw_figures": 1, **TABLES}
ALL_EVALUATED: Jobs = {"score_experiment": 2, "draw_figures": 2, **TABLES}
# one in-silico analysis in one job, and all of `tiny`: one of them in one job and one in two
ANALYSED: Jobs = {"run_analysis": 1, "join_analysis": 1, "draw_analysis": 1, "compare_members": 1, "write_report": 1}
ALL_ANALYSED: Jobs = {
    "run_analysis": 3,
    "join_analysis": 2,
    "draw_analysis": 2,
    "compare_members": 1,
    "write_report": 1,
}
PREDICTED: Jobs = {"predict_member": 3, "compute_receptive_fields": 1, **ALL_ANALYSED, **ALL_EVALUATED}

FEW_FLASHES = "defaults: [omitted_stimulus, _self_]\nn_flashes: 4\n"
ANALYSES = ["receptive_fields", "omitted_stimulus", "few_flashes"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    tiny: Any = WORKFLOW["catalogue"]["tiny"] | {"insilico": ANALYSES}  # type: ignore[index]
    catalogue: Any = WORKFLOW["catalogue"]
    workflow = WORKFLOW | {"catalogue": catalogue | {"tiny": tiny}, "insilico_shards": {"default": 1, "few_flashes": 2}}
    campaign = Campaign(tmp_path_factory.mktemp("campaign") / "finished").prepare(workflow)
    campaign.write("configs/insilico/few_flashes.yaml", FEW_FLASHES)
    # the logs then list every module that a script imports
    campaign.snakemake("all", PYTHONPROFILEIMPORTTIME="1")
    return campaign


def _repack(campaign: Campaign) -> None:
    """Write the same content with another compression: other bytes, same digest of the content."""
    path = campaign.root / "results/data/tiny/tiny_0.h5"
    with h5py.File(path, "r+") as file:
        responses = file["bins/responses"]
        values, attributes = responses[:], dict(responses.attrs)
        del file["bins/responses"]
        file.create_dataset("bins/responses", data=values).attrs.update(attributes)


def _comments_and_key_order(campaign: Campaign) -> None:
    for path in campaign.root.glob("configs/**/*.yaml"):
        path.write_text(path.read_text() + "\n# a comment\n")
    campaign.replace("configs/tiny.yaml", "{n_folds: 2, clip_length: 50}", "{clip_length: 50, n_folds: 2}")


def _loggers_and_paths(campaign: Campaign) -> None:
    campaign.replace("configs/tiny.yaml", "  - _self_", "  - override logger: none\n  - _self_")
    campaign.replace("configs/tiny.yaml", "exp_name", "paths: {output_dir: elsewhere}\nexp_name")
    campaign.write("profiles/local/config.v9+.yaml", "cores: 1\n")


def _touched(*patterns: str) -> Callable[[Campaign], None]:
    def touch(campaign: Campaign) -> None:
        for pattern in patterns:
            found = [path for path in campaign.root.glob(pattern) if path.is_file()]
            assert found, pattern
            for path in found:
                path.touch()

    return touch


def _replaced(name: str, old: str, new: str) -> Callable[[Campaign], None]:
    return lambda campaign: campaign.replace(name, old, new)


def _reworded(name: str) -> Callable[[Campaign], None]:
    return _replaced(name, '"""', '"""Edited. ')


def _edited_during_the_run(name: str) -> Callable[[Campaign], None]:
    """Edit a file such that its time lies before that of every output, as if jobs had been running then."""

    def edit(campaign: Campaign) -> None:
        _reworded(name)(campaign)
        os.utime(campaign.root / name, (0, 0))

    return edit


NOTHING: dict[str, Callable[[Campaign], None]] = {
    "no edit": lambda campaign: None,
    "comments and key order": _comments_and_key_order,
    "loggers, paths and profiles": _loggers_and_paths,
    "touched sources": _touched(
        "configs/**/*.yaml", "src/coread/**/*.py", "workflow_scripts/*.py", "rules/*", "Snakefile"
    ),
    "touched results": _touched(
        "results/**/*.h5", "results/**/model.ckpt", "results/**/*.sha256", "results/*/config/*"
    ),
    "repacked recording": _repack,
    "code that decides no number": _replaced("src/coread/provenance.py", '"numpy"', '"numpy", "einops"'),
    "code of an analysis that nobody runs": _reworded("src/coread/insilico/mosaic.py"),
}

EDITS: dict[str, tuple[Callable[[Campaign], None], Jobs]] = {
    "evaluation setting of one experiment": (
        _replaced("configs/tiny_ln.yaml", "level: 0.95", "level: 0.9"),
        {"write_config": 1, **EVALUATED},
    ),
    "in-silico setting": (
        _replaced("configs/tiny.yaml", "exp_name", "insilico: {seed: 5}\nexp_name"),
        {"write_config": 1, "compute_receptive_fields": 1, "draw_figures": 1, "compare_members": 1, "write_report": 1},
    ),
    "setting of one analysis": (
        _replaced("configs/insilico/omitted_stimulus.yaml", "n_flashes: 12", "n_flashes: 13"),
        {"write_analysis_config": 1, **ANALYSED},
    ),
    "setting of an analysis that two share": (
        _replaced("configs/insilico/omitted_stimulus.yaml", "contrast: -1.0", "contrast: -0.5"),
        {"write_analysis_config": 2, **ALL_ANALYSED},
    ),
    "setting of an analysis for one experiment": (
        _replaced("configs/tiny.yaml", "exp_name", "insilico_settings: {omitted_stimulus: {contrast: 1.0}}\nexp_name"),
        {"write_analysis_config": 1, **ANALYSED},
    ),
    "number of jobs of an analysis": (
        _replaced("configs/workflow.yaml", "few_flashes: 2", "few_flashes: 3"),
        {**ANALYSED, "run_analysis": 3},
    ),
    "code of an analysis": (_reworded("src/coread/insilico/omitted_stimulus.py"), ALL_ANALYSED),
    "look of the figures of analyses": (
        _reworded("src/coread/plotting/analyses.py"),
        {"draw_analysis": 2, "write_report": 1},
    ),
    "an analysis taken out of the catalogue": (
        _replaced("configs/workflow.yaml", "    - few_flashes\n", ""),
        {"compare_members": 1, "write_report": 1},
    ),
    "training setting of one experiment": (
        _replaced("configs/tiny_ln.yaml", "max_epochs: 2", "max_epochs: 3"),
        {"write_config": 1, "train_member": 1, "predict_member": 1, **EVALUATED},
    ),
    "model of one experiment": (
        _replaced("configs/tiny.yaml", "hidden_channels: [2]", "hidden_channels: [3]"),
        # with the averages that its members start from: how long these are follows from the model
        {
            "write_config": 2,
            "compute_sta": 1,
            "train_member": 2,
            "predict_member": 2,
            "compute_receptive_fields": 1,
            **ALL_ANALYSED,
            **EVALUATED,
        },
    ),
    "data setting": (
        _replaced("configs/data_io/tiny.yaml", "repeats: 4", "repeats: 5"),
        {
            "write_data_config": 1,
            "build_stimuli": 1,
            "build_recording": 1,
            "compute_sta": 2,
            "train_member": 3,
            **PREDICTED,
        },
    ),
    "code of one readout": (
        _reworded("src/coread/modules/readout/linear_nonlinear.py"),
        {"compute_sta": 1, "train_member": 1, "predict_member": 1, **EVALUATED},
    ),
    "code of the averages": (
        _reworded("src/coread/data_io/sta.py"),
        {"compute_sta": 2, "train_member": 3, **PREDICTED},
    ),
    "code of the scores": (_reworded("src/coread/eval/scores.py"), ALL_EVALUATED),
    "code of the trainer": (_reworded("src/coread/training.py"), {"train_member": 3, **PREDICTED}),
    "code edited while its jobs ran": (_edited_during_the_run("src/coread/eval/scores.py"), ALL_EVALUATED),
    "code of the report": (_reworded("src/coread/report/__init__.py"), {"write_report": 1}),
    "look of the report": (_replaced("src/coread/report/page.css", "{", "{ "), {"write_report": 1}),
    "a script": (_reworded("workflow_scripts/score.py"), ALL_EVALUATED),
    "an added seed": (
        _replaced("configs/workflow.yaml", "- 1\n", "- 1\n        - 2\n"),
        {"train_member": 1, "predict_member": 1, "compute_receptive_fields": 1, **ALL_ANALYSED, **EVALUATED},
    ),
    "another experiment": (
        _replaced("configs/workflow.yaml", "- tiny\n- tiny_ln", "- tiny\n- tiny_ln\n- tiny_pairs"),
        {"write_config": 4, "compute_sta": 1, "train_member": 1, "predict_member": 1, **EVALUATED},
    ),
    "changed content of a recording": (
        lambda campaign: campaign.write("results/data/tiny/tiny_0.sha256", "0" * 64 + "\n"),
        {"compute_sta": 2, "train_member": 3, **PREDICTED},
    ),
}


@pytest.fixture(scope="session")
def plans(finished: Campaign, request: pytest.FixtureRequest) -> Iterator[dict[str, "Future[Jobs]"]]:
    """What a dry run plans after each edit that a selected test asks for; two at a time, each in its own copy."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = dict.fromkeys(chosen["edit"] for chosen in parameters if "edit" in chosen)
    edits = NOTHING | {name: change for name, (change, _) in EDITS.items()}

    def plan(name: str) -> Jobs:
        campaign = finished.copy(finished.root.parent / name.replace(" ", "_"))
        edits[name](campaign)
        return campaign.planned()

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(plan, name) for name in wanted}


@pytest.mark.slow
@pytest.mark.parametrize("edit", NOTHING)
def test_what_changes_no_number_re_runs_nothing(plans: dict[str, "Future[Jobs]"], edit: str) -> None:
    assert plans[edit].result() == {}


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_re_runs_exactly_what_depends_on_it(plans: dict[str, "Future[Jobs]"], edit: str) -> None:
    assert plans[edit].result() == EDITS[edit][1]


@pytest.mark.slow
def test_seeds_of_the_command_line_train_only_the_new_ones(finished: Campaign) -> None:
    planned = finished.planned("--config", "experiments=[tiny]", "seeds=[0, 1, 2, 3]", target="models")
    assert planned == {"train_member": 2}


@pytest.mark.slow
def test_a_docstring_edit_is_answered_with_touch(finished: Campaign, tmp_path: Path) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    campaign.replace("src/coread/training.py", '"""', '"""Only words changed. ')
    campaign.snakemake("all", "--touch")
    assert campaign.planned() == {}


@pytest.mark.slow
def test_a_killed_member_leaves_nothing_half_made_and_goes_on(finished: Campaign, tmp_path: Path) -> None:
    campaign = finished.copy(tmp_path / "campaign")
    campaign.replace("configs/tiny.yaml", "max_epochs: 2", "max_epochs: 3000")
    campaign.snakemake("results/tiny/config/train.yaml")
    command = [sys.executable, "workflow_scripts/train.py", "--config", "results/tiny/config/train.yaml"]
    command += ["--recordings", "results/data/tiny/tiny_0.h5"]
    command += ["--fold", "1", "--seed", "0", "--memory-mb", "1000", "--log-dir", "logs/killed"]
    command += ["--output", "results/killed/model.ckpt"]
    with campaign.start(command) as process:
        while not list(campaign.root.glob("results/killed/.work/*/last.ckpt")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.kill()
    left = sorted(path.name for path in (campaign.root / "results/killed").iterdir())
    assert left == [".lock", ".lock.holder", ".work"]

    campaign.replace("results/tiny/config/train.yaml", "max_epochs: 3000", "max_epochs: 1")
    with campaign.start(command) as process:
        assert "resuming" not in process.communicate()[0]  # other settings never go on from these weights
    written = [".lock", ".work", "history.csv", "model.ckpt", "model.sha256"]
    assert sorted(path.name for path in (campaign.root / "results/killed").iterdir()) == written
    assert len(list(campaign.root.glob("results/killed/.work/*"))) == 1

    # a scheduler may end a job whose training is done: its outputs are deleted and made again without training
    trained = load_member(campaign.root / "results/killed/model.ckpt").model.state_dict()
    for name in written[2:]:
        (campaign.root / "results/killed" / name).unlink()
    with campaign.start(command) as process:
        output = process.communicate()[0]
    assert "resuming" in output
    assert "epoch 1/" not in output
    again = load_member(campaign.root / "results/killed/model.ckpt").model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in trained.items())


@pytest.mark.slow
def test_the_code_list_of_a_rule_is_what_its_script_imports(finished: Campaign) -> None:
    """Every module of the package that a script imported in the finished run is an input of its rule, and no other.

    Figures decide nothing in the results of in-silico analyses, which need what draws them only to be imported.
    """
    listed, with_figures = (_listed_code(finished, figures=figures) for figures in (False, True))
    checked = set()
    for log in sorted(finished.root.glob("logs/**/*.log")):
        imported = set(re.findall(r"^import time: .*\| +(coread[\w.]*)$", log.read_text(), re.MULTILINE)) - NO_NUMBERS
        if not imported:
            continue
        rule, *others = (part.split(".")[0] for part in log.relative_to(finished.root / "logs").parts)
        job = rule, others[0] if others and others[0] in EXPERIMENTS else EXPERIMENTS[0]
        assert imported <= with_figures[job], f"{rule}: imported but not listed"
        assert listed[job] - imported <= BY_NAME, f"{rule}: listed but not imported"
        assert not with_figures[job] - listed[job] or rule in ("run_analysis", "join_analysis")
        checked.add(rule)
    assert checked >= {
        "build_recording",
        "compute_sta",
        "train_member",
        "predict_member",
        "score_experiment",
        "run_analysis",
        "join_analysis",
        "draw_analysis",
        "compare_members",
        "write_report",
    }


# named in a registry or a config and imported by that name, which Python's import log does not show
BY_NAME = {
    "coread.data_io.simulate",
    "coread.data_io.simulate.retina",
    "coread.lr_schedules",
    "coread.insilico.omitted_stimulus",
}


EXPERIMENTS = ("tiny", "tiny_ln")  # the first is also the name of the dataset
FIGURES = ("coread.plotting",)  # what `without=FIGURES` says in rules/common.smk


def _listed_code(campaign: Campaign, *, figures: bool) -> dict[tuple[str, str], set[str]]:
    """Return the modules behind the `code` parameter of every rule for every experiment, or those with the figures."""
    package = campaign.root / "src" / "coread"
    rules = [
        (experiment, *rule)
        for experiment in EXPERIMENTS
        for path in campaign.root.glob("rules/*.smk")
        for rule in re.findall(CODE_OF_RULE, path.read_text())
    ]
    listed = {}
    for experiment, rule, arguments in rules:
        script, *stages = re.findall(r'"(\w+)"', arguments)
        without = FIGURES if "without=FIGURES" in arguments and not figures else ()
        settings = "".join(_settings(campaign, experiment, stage) for stage in stages)
        files = deciding_code(campaign.root / f"workflow_scripts/{script}.py", settings, package, without)
        modules = [file.relative_to(package.parent) for file in files if file.suffix == ".py"]
        names = (module.with_suffix("").as_posix() for module in modules)
        listed[rule, experiment] = {name.removesuffix("/__init__").replace("/", ".") for name in names}
    return listed


def _settings(campaign: Campaign, experiment: str, stage: str) -> str:
    """Return what `code_of` takes the classes of a stage from; both analyses are of one class."""
    if stage == "data":
        return f"_target_: {READERS['simulated_retina']}"
    name = "insilico/few_flashes" if stage == "analysis" else stage
    config = campaign.root / f"results/{experiment}/config/{name}.yaml"
    return config.read_text() if config.is_file() else ""


CODE_OF_RULE = re.compile(r"^rule (\w+):\n(?:(?!rule).*\n)*?        code=code_of\((.+)\),$", re.MULTILINE)
