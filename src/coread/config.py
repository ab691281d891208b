"""Experiments as composed Hydra configs, cut into what each stage reads.

The text of a stage slice is canonical (resolved, keys sorted, nothing of this machine), so equal texts mean equal
settings: the workflow compares them to decide what must run again. Imports neither torch nor pandas.
"""

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coread.signatures import constructor_arguments

STAGES: Mapping[str, tuple[str, ...]] = {
    "data": ("data_io",),
    "train": (
        "splits",
        "dataloader",
        "regressors",
        "model",
        "loss",
        "initialization",
        "pretrained_core",
        "optimizer",
        "lr_scheduler",
        "trainer",
        "training_callbacks",
        "quality_checks",
    ),
    "sta": ("splits", "dataloader", "model", "initialization"),  # part of "train": what decides how members start
    "evaluate": ("evaluation",),
    "insilico": ("insilico",),
}
RECEPTIVE_FIELDS = "receptive_fields"  # the analysis that has a rule, files and a group of settings of its own
# keys of an outer config that belong to no group: names, paths of this machine and the defaults of `coread train`
OUTER_KEYS = (
    "exp_name",
    "description",
    "paths",
    "seed",
    "fold",
    "only_train_readout",
    "hydra",
    "insilico_settings",  # of in-silico analyses by name: what an experiment wants other than configs/insilico/ says
)
HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


class ConfigError(ValueError):
    """A config cannot be composed or says something that nothing reads; the message names file and key."""


def config_directory() -> Path:
    """Return the folder of the shipped configs: of this checkout, or of the installed package."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "configs", package.parents[1] / "configs"
    return installed if installed.is_dir() else checkout


def search_path(directory: Path) -> list[str]:
    """Return the override with which groups that a folder lacks are taken from the shipped configs."""
    shipped = config_directory().resolve()
    return [] if directory.resolve() == shipped else [f"hydra.searchpath=['file://{shipped}']"]


def compose(experiment: str, overrides: Sequence[str] = (), directory: Path | None = None) -> DictConfig:
    """Return the composed config of an experiment with command line overrides, checked for keys that nothing reads.

    Raises ConfigError. The result is cached and read-only.
    """
    return _compose(experiment, tuple(overrides), (directory or config_directory()).resolve())


def stage_slice(config: DictConfig, stage: str) -> dict[str, Any]:
    """Return the resolved settings that a stage reads, as plain containers; raises ConfigError."""
    name = config.get("exp_name", "config")
    groups = [group for group in STAGES[stage] if config.get(group) is not None]
    _check_interpolations(config, groups)
    try:
        chosen = {group: OmegaConf.to_container(config[group], resolve=True) for group in groups}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}: {_one_line(error)}") from error
    if missing := sorted(_missing_keys(chosen)):
        raise ConfigError(f"{name}: {missing[0]} has no value (???), set it")
    return chosen


@functools.cache
def experiment_slice(experiment: str, stage: str, directory: Path | None = None) -> dict[str, Any]:
    """Return `stage_slice` of an experiment; cached, so do not change it. Raises ConfigError."""
    return stage_slice(compose(experiment, (), directory), stage)


@functools.cache
def stage_text(experiment: str, stage: str, directory: Path | None = None) -> str:
    """Return the canonical YAML text of one stage's settings; raises ConfigError."""
    return canonical_text(experiment_slice(experiment, stage, directory))


def compose_group(group: str, name: str, directory: Path | None = None) -> dict[str, Any]:
    """Return one file of a group, composed and resolved by itself; raises ConfigError."""
    config = _hydra_compose(f"{group}/{name}", (), (directory or config_directory()).resolve())
    stage = next(stage for stage, groups in STAGES.items() if group in groups)
    return dict(stage_slice(config, stage)[group])


def compose_data_io(name: str, directory: Path | None = None) -> dict[str, Any]:
    """Return one file of the group data_io, composed and resolved by itself; raises ConfigError."""
    return compose_group("data_io", name, directory)


@functools.cache
def analysis_settings(name: str, experiment: str | None = None, directory: Path | None = None) -> dict[str, Any]:
    """Return the settings of an in-silico analysis: `configs/insilico/<name>.yaml`, composed by itself.

    What the experiment says of it under `insilico_settings` replaces single values. Raises ConfigError for an unknown
    name, a file without `_target_` and a key that nothing reads. Cached, so do not change it.
    """
    folder = (directory or config_directory()).resolve()
    known = analysis_names(folder)
    if name not in known:
        raise ConfigError(f"there is no in-silico analysis {name!r} in configs/insilico/{closest(name, known)}")
    where = f"configs/insilico/{name}.yaml"
    content: Any = OmegaConf.to_container(_hydra_compose(f"insilico/{name}", (), folder), resolve=False)
    node = content.get("insilico") or {}
    if "_target_" not in node:
        raise ConfigError(f"{where} names no class: add `_target_: coread.insilico.<module>.<class>`")
    if experiment is not None:
        replaced = _insilico_settings(experiment, folder).get(name, {})
        for keys, key, siblings in () if "_target_" in replaced else _unknown_keys(replaced, node):
            named = ".".join(["insilico_settings", name, *keys, key])
            raise ConfigError(f"configs/{experiment}.yaml: unknown key {named!r}{closest(key, siblings)}")
        node = _replace_values(node, replaced)
    config = OmegaConf.create({"exp_name": where, "insilico": node})
    _check_constructor_keys(config.insilico, where)
    return dict(stage_slice(config, "insilico")["insilico"])


def analysis_names(directory: Path | None = None) -> list[str]:
    """Return the names of the files in configs/insilico/, of a folder and of the shipped configs."""
    folders = {(directory or config_directory()).resolve(), config_directory().resolve()}
    return sorted({file.stem for folder in folders for file in (folder / "insilico").glob("*.yaml")})


def check_insilico_settings(experiment: str, directory: Path | None = None) -> None:
    """Check that the `insilico_settings` of an experiment are of analyses that exist; raises ConfigError."""
    known = analysis_names(directory)
    for name in _insilico_settings(experiment, directory):
        where = f"configs/{experiment}.yaml: insilico_settings.{name}"
        if name not in known:
            raise ConfigError(f"{where}: there is no such in-silico analysis{closest(name, known)}")
        if name == RECEPTIVE_FIELDS:
            raise ConfigError(f"{where}: the settings of this one are the group insilico")


def _insilico_settings(experiment: str, directory: Path | None) -> dict[str, Any]:
    composed: Any = OmegaConf.to_container(compose(experiment, (), directory), resolve=False)
    settings = composed.get("insilico_settings") or {}
    if not (isinstance(settings, dict) and all(isinstance(value, dict) for value in settings.values())):
        raise ConfigError(
            f"configs/{experiment}.yaml: insilico_settings: expected analyses with their settings, as in "
            f"`omitted_stimulus: {{n_flashes: 20}}`, found {settings}"
        )
    return settings


def _replace_values(base: Any, values: Any) -> Any:
    """Return `base` with single values replaced; a node with another `_target_` brings all of its own."""
    if not (isinstance(base, Mapping) and isinstance(values, Mapping)):
        return values
    if values.get("_target_", base.get("_target_")) != base.get("_target_"):
        return values
    return {**base, **{key: _replace_values(base.get(key), value) for key, value in values.items()}}


def canonical_text(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML with sorted keys, one spelling per value."""
    return yaml.safe_dump(dict(settings), sort_keys=True, default_flow_style=False, allow_unicode=True, width=10_000)


def closest(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the most similar known word, or the list of known words."""
    known = sorted(str(name) for name in known)
    similar = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    return f" (did you mean {similar[0]!r}?)" if similar else f" (known: {', '.join(known)})"


# --------------------------------------------------------------------------------------------------------- composition


@functools.cache
def _compose(experiment: str, overrides: tuple[str, ...], directory: Path) -> DictConfig:
    path = directory / f"{experiment}.yaml"
    if not path.is_file():
        names = [file.stem for file in directory.glob("*.yaml") if _is_outer(file)]
        raise ConfigError(f"there is no experiment {experiment!r} in {directory.name}/{closest(experiment, names)}")
    config = _hydra_compose(experiment, overrides, directory)
    _check_outer_keys(path, directory)
    _check_group_keys(config, directory, experiment)
    _check_constructor_keys(config, f"configs/{path.name}")
    OmegaConf.set_readonly(config, True)
    return config


def _hydra_compose(name: str, overrides: tuple[str, ...], directory: Path) -> DictConfig:
    try:
        with initialize_config_dir(config_dir=str(directory), version_base="1.3"):
            return hydra_compose(config_name=name, overrides=[*search_path(directory), *overrides])
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        raise ConfigError(f"configs/{name}.yaml: {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"configs/{name}.yaml: not readable as YAML: {_one_line(error)}") from error


def _is_outer(path: Path) -> bool:
    return re.search(r"^defaults:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _one_line(error: Exception) -> str:
    # Hydra chains its message to the cause, which says what is wrong
    texts = [str(error)] if error.__cause__ is None else [str(error), str(error.__cause__)]
    return re.sub(r"\s+", " ", " ".join(texts)).strip()


# -------------------------------------------------------------------------------------------------------- unknown keys


def _check_outer_keys(path: Path, directory: Path) -> None:
    """Compare the keys that an outer config writes itself with what its defaults composed."""
    own = _read_yaml(path)
    defaults = own.pop("defaults", [])
    if own.keys() <= set(OUTER_KEYS):
        return
    composed = _compose_defaults(json.dumps([entry for entry in defaults if entry != "_self_"]), directory)
    known = composed | dict.fromkeys(OUTER_KEYS)
    if isinstance(own.get("search"), dict):
        own["search"].pop("space", None)  # any train setting may be added; coread.search.space compares it with those
    for keys, key, siblings in _unknown_keys(own, known):
        if keys == ["insilico"] and key in analysis_names(directory):
            raise ConfigError(f"configs/{path.name}: the settings of {key} belong under insilico_settings")
        raise ConfigError(f"configs/{path.name}: unknown key {'.'.join([*keys, key])!r}{closest(key, siblings)}")


@functools.cache
def _compose_defaults(defaults: str, directory: Path) -> dict[str, Any]:
    """Return what a defaults list, as JSON, composes; many experiments of a campaign share theirs."""
    name = f"_defaults_{hashlib.sha256(defaults.encode()).hexdigest()}"
    ConfigStore.instance().store(name=name, node={"defaults": json.loads(defaults)})
    composed = OmegaConf.to_container(_hydra_compose(name, (), directory), resolve=False)
    assert isinstance(composed, dict)
    return {str(key): value for key, value in composed.items()}


def _unknown_keys(own: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[list[str], str, list[str]]]:
    for key, value in own.items():
        if key not in known:
            yield [], key, list(known)
        # an empty or absent mapping is open (names of stimuli, ...); a new _target_ brings its own arguments
        elif isinstance(value, Mapping) and "_target_" not in value and isinstance(known[key], Mapping) and known[key]:
            for keys, unknown, siblings in _unknown_keys(value, known[key]):
                yield [key, *keys], unknown, siblings


def _check_group_keys(config: DictConfig, directory: Path, experiment: str) -> None:
    """Compare every group with its `default.yaml`, which lists all keys of the group."""
    for group in {name for groups in STAGES.values() for name in groups}:
        folders = (directory, config_directory())
        listing = next((file for folder in folders if (file := folder / group / "default.yaml").is_file()), None)
        if listing is None or config.get(group) is None or "_target_" in config[group]:
            continue
        composed: Any = OmegaConf.to_container(config[group], resolve=False)
        known = {key: value for key, value in _read_yaml(listing).items() if key != "defaults"}
        for keys, key, siblings in _unknown_keys(composed, known):
            raise ConfigError(
                f"configs/{experiment}.yaml: group {group} has the unknown key {'.'.join([*keys, key])!r}"
                f"{closest(key, siblings)}; configs/{group}/default.yaml lists every key"
            )


def _check_constructor_keys(config: DictConfig, where: str) -> None:
    """Compare every node that names a class of this package with the arguments of its constructor."""
    container = OmegaConf.to_container(config, resolve=False)
    for keys, node in _target_nodes(container):
        try:
            arguments = constructor_arguments(str(node["_target_"]))
        except LookupError as error:
            raise ConfigError(f"{where}: {'.'.join([*keys, '_target_'])}: {error.args[0]}") from error
        if arguments is None:
            continue
        for key in node:
            if key not in arguments and key not in HYDRA_KEYS:
                raise ConfigError(
                    f"{where}: unknown key {'.'.join([*keys, str(key)])!r}{closest(key, arguments)}; "
                    f"{node['_target_']} takes no such argument"
                )


def _target_nodes(node: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield keys, node
        for key, value in node.items():
            yield from _target_nodes(value, (*keys, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _target_nodes(value, (*keys, str(index)))


def _read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"configs/{path.name}: expected a mapping, found {type(content).__name__}")
    return content or {}


# ------------------------------------------------------------------------------------------------------ interpolations


def _visible_groups() -> list[str]:
    return [group for groups in STAGES.values() for group in groups]


def _check_interpolations(config: DictConfig, groups: Sequence[str]) -> None:
    """Refuse interpolations that reach outside the slices: paths, environment, clock and Hydra's own settings."""
    for group in groups:
        for keys, text in _texts(OmegaConf.to_container(config[group], resolve=False), (group,)):
            for target in re.findall(r"\$\{\s*([^}]*)\}", text):
                if ":" in target or not (target.startswith(".") or target.split(".")[0] in _visible_groups()):
                    raise ConfigError(
                        f"{config.get('exp_name', 'config')}: {'.'.join(keys)} refers to ${{{target}}}; settings that "
                        f"decide numbers may only refer to {', '.join(_visible_groups())}"
                    )


def _texts(node: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, str):
        yield keys, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(value, (*keys, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _texts(value, (*keys, str(index)))


def _missing_keys(node: Any) -> list[str]:
    return [".".join(keys) for keys, text in _texts(node) if text == "???"]
