"""What a search varies: the space of a search config, its checks, and the settings of one trial.

Imports neither torch nor optuna: the workflow checks the spaces of its experiments before the first job.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coread.config import STAGES, ConfigError, closest, compose, stage_slice

KEYS = ("n_trials", "parallel", "folds", "member_seed", "seed", "sampler", "pruner", "space")
DISTRIBUTION_KEYS: Mapping[str, tuple[str, ...]] = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}
SAMPLERS: Mapping[str, tuple[str, ...]] = {"tpe": ("startup_trials",), "random": ("startup_trials",)}
PRUNERS: Mapping[str, tuple[str, ...]] = {
    "median": ("startup_trials", "warmup_epochs"),
    "none": ("startup_trials", "warmup_epochs"),
}


@dataclass(frozen=True)
class Distribution:
    """The values that one setting may take: an interval of numbers, or a list of choices of any kind."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All choices, or both ends of the interval."""
        return self.choices if self.kind == "categorical" else (self.low, self.high)


@functools.cache
def experiment_search(experiment: str, directory: Path | None = None) -> dict[str, Any]:
    """Return `search_settings` of an experiment; cached, so do not change it. Raises ConfigError."""
    return search_settings(compose(experiment, (), directory))


def search_settings(config: DictConfig) -> dict[str, Any]:
    """Return what a search reads, as plain containers: `search` resolved, `train` with its interpolations.

    A trial replaces values in `train` and resolves it then, so what refers to a varied setting follows it. Raises
    ConfigError naming what is wrong with the space or with a value in it.
    """
    name = str(config.get("exp_name", "config"))
    if config.get("search") is None:
        raise ConfigError(f"{name}: no search space; add `- search: core_readout` (configs/search/) to its defaults")
    train = stage_slice(config, "train")
    groups = [group for group in STAGES["train"] if config.get(group) is not None]
    settings = {
        "search": _resolved(config, name),
        "train": {group: OmegaConf.to_container(config[group], resolve=False) for group in groups},
    }
    try:
        _check_search(settings["search"], train)
        for key, distribution in read_space(settings["search"]).items():
            current = _current_value(train, key)
            for value in distribution.extremes:
                _check_kind(key, value, current)
                trial_settings(settings, {key: value})
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return settings


def read_space(search: Mapping[str, Any]) -> dict[str, Distribution]:
    """Return the distribution of every varied setting by its dotted key; raises ConfigError."""
    space = dict(_leaves(search["space"], ()))
    if not space:
        raise ConfigError("search.space is empty: nothing to vary")
    return {key: _read_distribution(key, leaf) for key, leaf in space.items()}


def trial_settings(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved train slice of one trial: `settings["train"]` with the trial's values; raises ConfigError."""
    config = OmegaConf.create(dict(settings["train"]))
    try:
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False)
        return stage_slice(config, "train")
    except OmegaConfBaseException as error:
        raise ConfigError(f"{', '.join(values)}: {error}") from error


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys as nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _resolved(config: DictConfig, name: str) -> dict[str, Any]:
    try:
        search = OmegaConf.to_container(config.search, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}: search: {str(error).splitlines()[0]}") from error
    assert isinstance(search, dict)
    return {str(key): value for key, value in search.items()}


# -------------------------------------------------------------------------------------------------------------- checks


def _check_search(search: Mapping[str, Any], train: Mapping[str, Any]) -> None:
    _check_keys("search", search, KEYS)
    for key, least in (("n_trials", 1), ("parallel", 1), ("seed", 0), ("member_seed", 0)):
        if not _is_whole(search[key]) or search[key] < least:
            raise ConfigError(f"search.{key}: expected a whole number of at least {least}, found {search[key]!r}")
    folds, n_folds = search["folds"], int(train["splits"].get("n_folds", 1))
    if not isinstance(folds, list) or not folds or any(not _is_whole(f) or not 0 <= f < n_folds for f in folds):
        raise ConfigError(f"search.folds: expected a list of folds from 0 to {n_folds - 1}, found {folds!r}")
    for group, methods in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        options = dict(search[group])
        method = options.pop("method", None)
        if method not in methods:
            raise ConfigError(f"search.{group}.method: unknown {method!r}{closest(str(method), methods)}")
        _check_keys(f"search.{group}", options, methods[method])
        if wrong := [key for key, value in options.items() if not _is_whole(value) or value < 0]:
            raise ConfigError(f"search.{group}.{wrong[0]}: expected a whole number, found {options[wrong[0]]!r}")
    if train["trainer"].get("num_processes", 1) != 1:
        raise ConfigError("a trial trains in one process: set trainer.num_processes to 1 for the search")


def _check_keys(where: str, found: Mapping[str, Any], expected: Sequence[str]) -> None:
    for key in found:
        if key not in expected:
            raise ConfigError(f"unknown key '{where}.{key}'{closest(key, expected)}")
    if missing := [key for key in expected if key not in found]:
        raise ConfigError(f"{where}.{missing[0]} is missing")


def _leaves(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every distribution of a space with the dotted key of the setting it stands for."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"search.space.{'.'.join(keys)}: expected {{distribution: ...}}, found {node!r}")
    if "distribution" in node:
        yield ".".join(keys), node
        return
    for key, value in node.items():
        yield from _leaves(value, (*keys, str(key)))


def _read_distribution(key: str, leaf: Mapping[str, Any]) -> Distribution:
    where = f"search.space.{key}"
    options = dict(leaf)
    kind = options.pop("distribution")
    if kind not in DISTRIBUTION_KEYS:
        raise ConfigError(f"{where}: unknown distribution {kind!r}{closest(str(kind), DISTRIBUTION_KEYS)}")
    if unknown := [option for option in options if option not in DISTRIBUTION_KEYS[kind]]:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}{closest(unknown[0], DISTRIBUTION_KEYS[kind])}")
    if kind == "categorical":
        choices = options.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{where}: expected a list of choices, found {choices!r}")
        if len({repr(choice) for choice in choices}) < len(choices):
            raise ConfigError(f"{where}: a choice is listed twice in {choices}")
        return Distribution(kind, choices=tuple(choices))
    return _read_interval(where, kind, options)


def _read_interval(where: str, kind: str, options: Mapping[str, Any]) -> Distribution:
    low: Any = options.get("low")
    high: Any = options.get("high")
    step, log = options.get("step"), options.get("log")
    for name, value in (("low", low), ("high", high), ("step", step)):
        if value is None and name == "step":
            continue
        if not _is_number(value) or (kind == "int" and not _is_whole(value)):
            raise ConfigError(f"{where}.{name}: expected {'a whole' if kind == 'int' else 'a'} number, found {value!r}")
    if not isinstance(log, bool | None):
        raise ConfigError(f"{where}.log: expected true or false, found {log!r}")
    if low >= high:
        raise ConfigError(f"{where}: low must be below high, found {low} and {high}")
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"{where}: log: true needs low above 0 and no step, found low {low}, step {step}")
    if step is not None and step <= 0:
        raise ConfigError(f"{where}: step must be above 0, found {step}")
    number = int if kind == "int" else float
    return Distribution(kind, number(low), number(high), bool(log), None if step is None else number(step))


def _current_value(train: Mapping[str, Any], key: str) -> Any:
    """Return the value that the experiment gives a setting; raises ConfigError if there is no such setting."""
    node: Any = train
    for depth, part in enumerate(parts := key.split(".")):
        if not isinstance(node, Mapping) or part not in node:
            known = node if isinstance(node, Mapping) else {}
            place = f" below {'.'.join(parts[:depth])}" if depth else ""
            raise ConfigError(f"search.space varies {key!r}, but{place} there is no {part!r}{closest(part, known)}")
        node = node[part]
    if isinstance(node, Mapping):
        raise ConfigError(f"search.space varies {key!r}, which is a group of settings{closest('', node)}")
    return node


def _check_kind(key: str, value: Any, current: Any) -> None:
    """Refuse values of another kind than the experiment's own: text for a number, a number for a list."""
    for name, is_kind in (
        ("a list", lambda x: isinstance(x, list)),
        ("true or false", lambda x: isinstance(x, bool)),
        ("a number", _is_number),
        ("text", lambda x: isinstance(x, str)),
    ):
        if value is not None and is_kind(current) and not is_kind(value):
            raise ConfigError(f"search.space.{key}: the setting is {name} ({current!r}), found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
