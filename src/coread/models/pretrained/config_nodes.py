"""OmegaConf configs in published checkpoints as plain values, without OmegaConf: no resolver runs.

A resolver is code that the loading program registered (some register `eval`), so a reference to one is refused;
references to other keys of the same config are followed.
"""

import re
from typing import Any

import numpy as np

from coread.models.pretrained.safe_pickle import CheckpointError, InertRecord, LoadedArray, UnsafeCheckpointError

REFERENCE = re.compile(r"\$\{(\.*)([\w.\[\]]+)\}")
MAX_DEPTH = 50


def plain_value(value: Any, depth: int = 0) -> Any:
    """Return a value of a checkpoint's hyper-parameters with every config node as dict, list or scalar.

    Raises UnsafeCheckpointError for a reference to a resolver, CheckpointError for one to a missing key.
    """
    if depth > MAX_DEPTH:
        raise CheckpointError("a config of the checkpoint refers to itself")
    if isinstance(value, InertRecord) and value.published_name.startswith("omegaconf."):
        return _plain_node(value, depth)
    if isinstance(value, dict):
        return {key: plain_value(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(entry, depth + 1) for entry in value]
    return value.view(np.ndarray) if isinstance(value, LoadedArray) else value


def _plain_node(node: InertRecord, depth: int) -> Any:
    content = _content(node)
    if isinstance(content, str) and "${" in content:
        return plain_value(_referred(node, content), depth + 1)
    return plain_value(content, depth + 1)


def _content(node: InertRecord) -> Any:
    """Return what a container holds, or the value of a leaf."""
    return node.state["_content"] if "_content" in node.state else node.state.get("_val")


def _referred(node: InertRecord, text: str) -> Any:
    """Return the node that `${key.key}`, absolute or relative (`${.key}`), stands for."""
    reference = REFERENCE.fullmatch(text)
    if reference is None:
        raise UnsafeCheckpointError(f"the checkpoint's config asks for {text}, which is refused: it is no plain key")
    dots, path = reference.groups()
    found: Any = node.state.get("_parent") if dots else _root(node)
    for _ in dots[1:]:
        found = found.state.get("_parent")
    for key in re.findall(r"[^.\[\]]+", path):
        entries = _content(found) if isinstance(found, InertRecord) else found
        if isinstance(entries, list) and key.isdecimal() and int(key) < len(entries):
            found = entries[int(key)]
        elif isinstance(entries, dict) and key in entries:
            found = entries[key]
        else:
            raise CheckpointError(f"the checkpoint's config refers to {text}, which it does not hold")
    return found


def _root(node: InertRecord) -> InertRecord:
    while isinstance(node.state.get("_parent"), InertRecord):
        node = node.state["_parent"]
    return node
