"""Which artefacts exist: members, datasets, sessions, and what is refused before the first job."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from coread.catalogue import Catalogue
from coread.config import ConfigError, config_directory
from tests.test_config import GROUPS, OUTER

WORKFLOW: dict[str, Any] = {
    "experiments": ["toy", "toy_pairs"],
    "catalogue": {
        "toy": {"members": {"cross": {"folds": [0, 1], "seeds": [0, 5]}}, "insilico": ["receptive_fields"]},
        "toy_pairs": {"members": {"paired": [[0, 100], [1, 101]]}},
        "local": {"members": {"cross": {"folds": [0], "seeds": [0]}}},
    },
    "data_dirs": {},
}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    folder = tmp_path / "configs"
    local = OUTER.replace("data_io: toy", "data_io: local").replace("exp_name: toy", "exp_name: local")
    outer = {
        "toy.yaml": OUTER,
        "toy_pairs.yaml": OUTER.replace("exp_name: toy", "exp_name: pairs"),
        "local.yaml": local,
    }
    groups = {"data_io/local.yaml": "dataset: local\nreader: hdf5_directory\nsessions: null\n"}
    for name, text in {**GROUPS, **outer, **groups}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(config_directory() / "workflow.schema.json", folder)
    return folder


def _catalogue(configs: Path, **changes: Any) -> Catalogue:
    return Catalogue(copy.deepcopy(WORKFLOW) | changes, configs)


def test_members_are_crossed_or_paired(configs: Path) -> None:
    catalogue = _catalogue(configs)
    assert catalogue.members("toy") == [(0, 0), (0, 5), (1, 0), (1, 5)]
    assert catalogue.members("toy_pairs") == [(0, 100), (1, 101)]


def test_seeds_and_folds_of_the_command_line_replace_crossed_members(configs: Path) -> None:
    catalogue = _catalogue(configs, experiments=["toy"], seeds=["0", "1", "2"], folds=[1])
    assert catalogue.members("toy") == [(1, 0), (1, 1), (1, 2)]


def test_experiments_share_the_recordings_of_a_dataset(configs: Path) -> None:
    catalogue = _catalogue(configs)
    catalogue.check()
    assert {catalogue.dataset(name) for name in catalogue.experiments} == {"toy"}
    assert catalogue.sessions("toy") == ("a",)
    assert catalogue.source_digest("toy", "a") == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experimets": []}, r"unknown key 'experimets'.*did you mean 'experiments'"),
        ({"experiments": ["toyy"]}, r"unknown experiment 'toyy'.*did you mean 'toy'"),
        ({"experiments": "toy"}, r"experiments: 'toy' is not of type 'array'"),
        ({"seeds": [0]}, r"seeds=... crosses folds and seeds, but the members of 'toy_pairs' are listed in pairs"),
        ({"seeds": [-1], "experiments": ["toy"]}, r"seeds.0: -1 is less than the minimum"),
        ({"catalogue": {"toy": {"members": {"cross": {"folds": [0]}}}}}, r"'seeds' is a required property"),
        ({"catalogue": {"toy": {"members": {"crossed": {}}}}}, r"catalogue.toy.members"),
        ({"catalogue": {"data": WORKFLOW["catalogue"]["toy"]}, "experiments": ["data"]}, r"may be called 'data'"),
    ],
)
def test_a_wrong_workflow_config_is_refused_with_the_key(configs: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _catalogue(configs, **changes)


def test_a_fold_that_does_not_exist_is_refused(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r"toy: fold 2 does not exist, its split has 2 folds \(0 to 1\)"):
        _catalogue(configs, experiments=["toy"], folds=[0, 2]).check()


def test_two_meanings_of_one_dataset_are_refused_naming_both_experiments(configs: Path) -> None:
    (configs / "toy_pairs.yaml").write_text(OUTER + "data_io: {rate_hz: 60.0}\n")
    with pytest.raises(ConfigError, match=r"toy and toy_pairs both read dataset 'toy'.*rate_hz: 30.0.*rate_hz: 60.0"):
        _catalogue(configs).check()


def test_an_experiment_that_is_only_a_target_must_mean_the_same_data(configs: Path) -> None:
    (configs / "toy_pairs.yaml").write_text(OUTER + "data_io: {rate_hz: 60.0}\n")
    catalogue = _catalogue(configs, experiments=["toy"])
    catalogue.check()  # which composes only what is built
    with pytest.raises(ConfigError, match=r"toy and toy_pairs both read dataset 'toy'.*rate_hz: 30.0.*rate_hz: 60.0"):
        catalogue.dataset("toy_pairs")


def test_a_local_dataset_without_its_folder_is_refused_with_the_command(configs: Path) -> None:
    with pytest.raises(ConfigError, match=r'--config "data_dirs={local: DIR}"'):
        _catalogue(configs, experiments=["local"]).check()
    with pytest.raises(ConfigError, match=r"'local' does not exist: nowhere"):
        _catalogue(configs, experiments=["local"], data_dirs={"local": "nowhere"}).check()
    with pytest.raises(ConfigError, match=r"unknown dataset 'locl'.*did you mean 'local'"):
        _catalogue(configs, experiments=["local"], data_dirs={"locl": "."}).check()


@pytest.mark.parametrize("name", ["day 1", "a+b", "{a}", "stimuli-1"])
def test_a_session_whose_name_no_command_takes_is_refused(configs: Path, name: str) -> None:
    path = configs / "data_io" / "toy.yaml"
    path.write_text(path.read_text().replace("sessions: [a]", f"sessions: ['{name}']"))
    with pytest.raises(ConfigError, match=rf"dataset 'toy': the session '{re.escape(name)}' cannot name a file"):
        _catalogue(configs).sessions("toy")


def test_a_comparison_is_made_of_what_is_built_with_its_baseline(configs: Path) -> None:
    rows = [{"experiment": name} for name in ("toy_pairs", "toy", "local")]
    comparisons = {"all": {"baseline": "toy", "rows": rows}, "far": {"baseline": "local", "rows": rows[1:]}}
    catalogue = _catalogue(configs, comparisons=comparisons)
    assert catalogue.compared("all") == ["toy_pairs", "toy"]
    assert catalogue.compared("far") == [], "its baseline is not built"
    assert _catalogue(configs, comparisons=comparisons, experiments=["toy"]).compared("all") == []


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        ({"baseline": "toy", "rows": [{"experiment": "toy"}, {"experiment": "toy_pair"}]}, "did you mean 'toy_pairs'"),
        ({"baseline": "toy", "rows": [{"experiment": "toy"}, {"experiment": "toy"}]}, "toy is named twice"),
        ({"baseline": "local", "rows": [{"experiment": "toy"}, {"experiment": "toy_pairs"}]}, "none of its rows"),
        ({"baseline": "toy", "rows": [{"experiment": "toy"}]}, "comparisons.odd.rows"),
        ({"baseline": "toy", "rows": [{"experiment": "toy"}, {"experiment": "local", "publ": 1}]}, "publ"),
    ],
)
def test_comparisons_that_cannot_be_made_are_refused(configs: Path, comparison: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _catalogue(configs, comparisons={"odd": comparison})


def test_the_shipped_workflow_config_fits_its_schema() -> None:
    import yaml

    workflow = yaml.safe_load((config_directory() / "workflow.yaml").read_text())
    schema = json.loads((config_directory() / "workflow.schema.json").read_text())
    assert set(Catalogue(workflow, config_directory()).names) == set(workflow["catalogue"])
    assert all("description" in entry for entry in schema["properties"].values())


# --------------------------------------------------------------------------------------------------- in-silico analyses

STIMULUS = "_target_: coread.insilico.omitted_stimulus.OmittedStimulus\ncontrast: -1.0\nperiods_s: [0.1, 0.2]\n"


def _with_analysis(configs: Path, text: str = STIMULUS, name: str = "flicker", **changes: Any) -> Catalogue:
    (configs / "insilico").mkdir(exist_ok=True)
    (configs / "insilico" / f"{name}.yaml").write_text(text)
    entry = WORKFLOW["catalogue"]["toy"] | {"insilico": ["receptive_fields", name]}
    return _catalogue(configs, experiments=["toy"], catalogue=WORKFLOW["catalogue"] | {"toy": entry}, **changes)


def test_an_analysis_is_a_file_of_its_name_whose_values_an_experiment_may_replace(configs: Path) -> None:
    (configs / "toy.yaml").write_text(OUTER + "insilico_settings: {flicker: {contrast: 0.5}}\n")
    catalogue = _with_analysis(configs)
    catalogue.check()
    assert "flicker" in catalogue.known_analyses
    assert "receptive_fields" not in catalogue.known_analyses
    assert catalogue.analysis_text("toy", "flicker") == (
        "_target_: coread.insilico.omitted_stimulus.OmittedStimulus\ncontrast: 0.5\nperiods_s:\n- 0.1\n- 0.2\n"
    )
    assert "contrast: -1.0" in catalogue.analysis_text("toy_pairs", "flicker")
    for stage in ("train", "evaluate", "insilico"):
        assert catalogue.stage_text("toy", stage) == catalogue.stage_text("toy_pairs", stage)


def test_an_analysis_may_build_on_another(configs: Path) -> None:
    (configs / "insilico").mkdir(exist_ok=True)
    (configs / "insilico" / "slow.yaml").write_text("defaults: [flicker, _self_]\nperiods_s: [1.0]\n")
    text = _with_analysis(configs).analysis_text("toy", "slow")
    assert "contrast: -1.0" in text
    assert "periods_s:\n- 1.0\n" in text


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("contrast: 1.0\n", "{}", r"configs/insilico/flicker.yaml names no class: add `_target_: "),
        ("", "{}", r"configs/insilico/flicker.yaml names no class"),
        (STIMULUS + "contrst: 1\n", "{}", r"flicker.yaml: unknown key 'contrst' \(did you mean 'contrast'\?\)"),
        (STIMULUS.replace("OmittedStimulus", "Omitted"), "{}", r"flicker.yaml: _target_: .* defines no Omitted"),
        (STIMULUS.replace("-1.0", "${oc.env:HOME}"), "{}", r"flicker.yaml: insilico.contrast refers to"),
        (STIMULUS.replace("-1.0", "???"), "{}", r"flicker.yaml: insilico.contrast has no value"),
        (STIMULUS.replace("[0.1", "[0.1["), "{}", r"configs/insilico/flicker.yaml"),
        (
            STIMULUS,
            "{flicker: {contrst: 1}}",
            r"toy.yaml: unknown key 'insilico_settings.flicker.contrst' .*'contrast'",
        ),
        (
            STIMULUS,
            "{flickr: {contrast: 1}}",
            r"insilico_settings.flickr: there is no such .* \(did you mean 'flicker'",
        ),
        (STIMULUS, "{receptive_fields: {seed: 1}}", r"the settings of this one are the group insilico"),
        (STIMULUS, "{flicker: 3}", r"expected analyses with their settings"),
    ],
)
def test_a_wrong_analysis_is_refused_before_the_first_job(
    configs: Path, text: str, settings: str, message: str
) -> None:
    (configs / "toy.yaml").write_text(OUTER + f"insilico_settings: {settings}\n")
    with pytest.raises(ConfigError, match=message):
        _with_analysis(configs, text).check()


def test_settings_of_an_analysis_below_the_group_are_told_where_they_belong(configs: Path) -> None:
    (configs / "toy.yaml").write_text(OUTER + "insilico: {flicker: {contrast: 0.5}}\n")
    with pytest.raises(ConfigError, match="the settings of flicker belong under insilico_settings"):
        _with_analysis(configs).check()


def test_an_unknown_analysis_is_named_with_the_closest_known_one(configs: Path) -> None:
    entry = WORKFLOW["catalogue"]["toy"] | {"insilico": ["omitted_stimuls"]}
    catalogue = _catalogue(configs, experiments=["toy"], catalogue=WORKFLOW["catalogue"] | {"toy": entry})
    with pytest.raises(ConfigError, match=r"no in-silico analysis 'omitted_stimuls' .*did you mean 'omitted_stimulus'"):
        catalogue.check()
    with pytest.raises(ConfigError, match="no in-silico analysis may be called 'scores'"):
        _with_analysis(configs, name="scores").check()


def test_how_many_jobs_share_the_neurons_of_an_analysis(configs: Path) -> None:
    assert _with_analysis(configs).shards("flicker") == 1
    assert _with_analysis(configs, insilico_shards=4).shards("flicker") == 4
    # what `--config` brings is text
    catalogue = _with_analysis(configs, insilico_shards={"default": "2", "flicker": "8"})
    assert (catalogue.shards("flicker"), catalogue.shards("omitted_stimulus")) == (8, 2)
    for wrong, message in (({"flickr": 2}, r"insilico_shards: unknown analysis 'flickr'"), (0, "insilico_shards")):
        with pytest.raises(ConfigError, match=message):
            _with_analysis(configs, insilico_shards=wrong).check()


def test_every_shipped_analysis_composes_and_takes_its_settings() -> None:
    from coread.config import RECEPTIVE_FIELDS, analysis_names, analysis_settings
    from coread.insilico.running import load_experiment

    for name in analysis_names():
        if name != RECEPTIVE_FIELDS:
            load_experiment(analysis_settings(name))  # no argument is missing, and it can be run and drawn
