"""Which artefacts exist: members, datasets, sessions, and what is refused before the first job."""

import copy
import json
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
