"""Composition of experiments, canonical stage slices, and settings that nothing reads."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coread.config import STAGES, ConfigError, compose, config_directory, stage_slice, stage_text

GROUPS: dict[str, str] = {
    "data_io/toy.yaml": "dataset: toy\nreader: simulated_retina\nsessions: [a]\nrate_hz: 30.0\n",
    "splits/folds.yaml": "method: folds\nn_folds: 2\nclip_length: 10\nseed: 0\n",
    "dataloader/default.yaml": "window_length: 20\nbatch_size: 4\nnormalize_stimulus: true\n",
    "model/small.yaml": "hidden: [8, 8]\ncore:\n  channels: 8 # per layer\n",
    "trainer/default.yaml": "max_epochs: 3\noptions: {}\n",
    "optimizer/adam.yaml": "_target_: torch.optim.Adam\nlr: ${trainer.max_epochs}\n",
    "evaluation/default.yaml": "threshold: 0.15\nbootstrap: {n: 100, seed: 0}\n",
    "insilico/default.yaml": "seed: 0\n",
    "logger/none.yaml": "{}\n",
}
OUTER = """\
defaults:
  - data_io: toy
  - splits: folds
  - dataloader: default
  - model: small
  - optimizer: adam
  - trainer: default
  - evaluation: default
  - insilico: default
  - logger: none
  - _self_
exp_name: toy
"""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    for name, text in {**GROUPS, "toy.yaml": OUTER}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def _edited(configs: Path, name: str, old: str, new: str) -> Path:
    """Edited copy in its own folder: what was composed is remembered per folder."""
    target = configs.parent / f"{configs.name}_edited_{abs(hash((name, old, new)))}"
    for file in configs.rglob("*.yaml"):
        copy = target / file.relative_to(configs)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    text = (target / name).read_text()
    assert old in text
    (target / name).write_text(text.replace(old, new, 1))
    return target


def test_stage_text_is_sorted_resolved_and_holds_only_the_groups_of_the_stage(configs: Path) -> None:
    train = yaml.safe_load(stage_text("toy", "train", configs))
    assert set(train) == {"splits", "dataloader", "model", "optimizer", "trainer"}
    assert train["optimizer"]["lr"] == 3
    text = stage_text("toy", "evaluate", configs)
    assert text == "evaluation:\n  bootstrap:\n    n: 100\n    seed: 0\n  threshold: 0.15\n"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("model/small.yaml", "# per layer", "# channels"),
        ("model/small.yaml", "hidden: [8, 8]\ncore:\n  channels: 8", "core:\n  channels: 8\nhidden:\n- 8\n- 8\n#"),
        ("toy.yaml", "exp_name: toy", "exp_name: other\npaths: {data_dir: /somewhere}\nseed: 7"),
        ("logger/none.yaml", "{}", "csv: {}"),
    ],
    ids=["comment", "key order and style", "names, paths and seed", "logger"],
)
def test_what_changes_no_number_changes_no_text(configs: Path, name: str, old: str, new: str) -> None:
    edited = _edited(configs, name, old, new)
    for stage in STAGES:
        assert stage_text("toy", stage, edited) == stage_text("toy", stage, configs)


def test_an_edited_setting_changes_the_text_of_its_stage_only(configs: Path) -> None:
    edited = _edited(configs, "evaluation/default.yaml", "threshold: 0.15", "threshold: 0.2")
    changed = [stage for stage in STAGES if stage_text("toy", stage, edited) != stage_text("toy", stage, configs)]
    assert changed == ["evaluate"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("toy.yaml", "exp_name: toy", "trainr: {max_epochs: 5}", r"toy.yaml.*'trainr'.*did you mean 'trainer'"),
        ("toy.yaml", "exp_name: toy", "model: {core: {chanels: 3}}", r"'model.core.chanels'.*did you mean 'channels'"),
        ("toy.yaml", "exp_name: toy", "trainer: {max_epoch: 3}", r"'trainer.max_epoch'.*did you mean 'max_epochs'"),
        ("toy.yaml", "model: small", "model: smal", r"toy.*smal"),
        ("model/small.yaml", "channels: 8 # per layer", "channels: ???", r"model.core.channels has no value"),
        ("model/small.yaml", "channels: 8 # per layer", "channels: ${paths.x}", r"model.core.channels.*paths.x"),
        ("model/small.yaml", "channels: 8 # per layer", "channels: ${oc.env:HOME}", r"channels.*oc.env:HOME"),
        ("model/small.yaml", "channels: 8 # per layer", "channels: ${model.missing}", r"missing"),
        ("model/small.yaml", "hidden: [8, 8]", "hidden: [8, 8", r"toy.yaml"),
    ],
)
def test_wrong_configs_are_refused_with_the_key(configs: Path, name: str, old: str, new: str, message: str) -> None:
    edited = _edited(configs, name, old, new)
    with pytest.raises(ConfigError, match=message):
        stage_text("toy", "train", edited)


def test_an_unknown_key_in_a_group_file_is_compared_with_the_default_of_the_group(configs: Path) -> None:
    (configs / "trainer" / "short.yaml").write_text("max_epochs: 1\nmax_epoch: 2\n")
    edited = _edited(configs, "toy.yaml", "trainer: default", "trainer: short")
    with pytest.raises(ConfigError, match=r"group trainer.*'max_epoch'.*did you mean 'max_epochs'"):
        compose("toy", (), edited)


def test_a_class_of_the_package_is_asked_for_its_arguments_without_importing_it(configs: Path) -> None:
    text = "_target_: coread.models.core_readout.UnifiedCoreReadout\nlearning_rte: 0.1\n"
    (configs / "model" / "typo.yaml").write_text(text)
    edited = _edited(configs, "toy.yaml", "model: small", "model: typo")
    with pytest.raises(ConfigError, match=r"'model.learning_rte'.*did you mean 'learning_rate'.*UnifiedCoreReadout"):
        compose("toy", (), edited)


def test_an_open_mapping_takes_any_key(configs: Path) -> None:
    edited = _edited(configs, "toy.yaml", "exp_name: toy", "trainer: {options: {anything: 1}}")
    assert compose("toy", (), edited).trainer.options.anything == 1


def test_an_unknown_experiment_is_named_with_the_closest_known_one(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r"no experiment 'toi'.*did you mean 'toy'"):
        compose("toi", (), configs)


def test_overrides_work_as_on_the_command_line_and_unknown_ones_are_refused(configs: Path) -> None:
    assert stage_slice(compose("toy", ["trainer.max_epochs=9"], configs), "train")["trainer"]["max_epochs"] == 9
    with pytest.raises(ConfigError, match="max_epoch"):
        compose("toy", ["trainer.max_epoch=9"], configs)


def test_an_experiment_may_build_on_another(configs: Path) -> None:
    (configs / "toy_long.yaml").write_text("defaults: [toy, _self_]\ntrainer: {max_epochs: 8}\nexp_name: toy_long\n")
    assert yaml.safe_load(stage_text("toy_long", "train", configs))["trainer"]["max_epochs"] == 8
    assert stage_text("toy_long", "data", configs) == stage_text("toy", "data", configs)


def test_the_config_module_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, coread.config, coread.catalogue; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


OUTER_CONFIGS = sorted(
    path.stem for path in config_directory().glob("*.yaml") if "\ndefaults:" in "\n" + path.read_text()
)


@pytest.mark.parametrize("experiment", OUTER_CONFIGS)
def test_every_shipped_experiment_composes_and_prints_all_stages(experiment: str) -> None:
    for stage in STAGES:
        text = stage_text(experiment, stage)
        assert yaml.safe_load(text), f"{experiment}: stage {stage} is empty"
        assert str(Path.home()) not in text


def test_every_experiment_of_the_catalogue_is_shipped() -> None:
    workflow = yaml.safe_load((config_directory() / "workflow.yaml").read_text())
    assert set(workflow["catalogue"]) <= set(OUTER_CONFIGS)
