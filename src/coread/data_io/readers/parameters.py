"""Strict reading of a reader's parameters: an unknown or missing key is an error that lists the known ones."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

COMMON_KEYS = frozenset({"dataset", "reader", "sessions", "files", "source"})

Parameters = TypeVar("Parameters")


def parse_parameters(kind: type[Parameters], config: Mapping[str, Any], where: str = "data_io") -> Parameters:
    """Return the dataclass `kind` filled from `config`.

    Raises ValueError that names `where`, the unknown or missing keys and the known ones.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(map(str, config)) - set(known)):
        raise ValueError(f"{where}: unknown keys {unknown}; known keys are {sorted(known)}")
    required = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    if missing := sorted(required - set(config)):
        raise ValueError(f"{where}: missing keys {missing}; known keys are {sorted(known)}")
    return kind(**{str(key): plain(value) for key, value in config.items()})


def reader_parameters(kind: type[Parameters], config: Mapping[str, Any]) -> Parameters:
    """Return `parse_parameters` of a data_io node without the keys that every reader shares."""
    return parse_parameters(kind, {key: value for key, value in config.items() if key not in COMMON_KEYS})


def plain(value: Any) -> Any:
    """Return mappings as dict and sequences as list, so that Hydra's containers and YAML look the same."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return value
    return [plain(item) for item in value]
