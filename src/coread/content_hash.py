"""A digest of content, independent of how a file packs it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np


class ContentHash:
    """A sha256 over named arrays and texts."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add_text(self, name: str, text: str) -> None:
        """Add a named text."""
        self._sha.update(f"{name}\0{text}\0".encode())

    def add_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Add named values in the order of their names."""
        for name in sorted(attributes):
            self.add_text(name, repr(attributes[name]))

    def add_array(self, name: str, values: np.ndarray | h5py.Dataset) -> None:
        """Add an array: its type, shape and values, read in chunks where it lies on disk."""
        if values.dtype.kind == "O":
            self.add_text(name, "\0".join(str(v) for v in np.asarray(values).reshape(-1)))
            return
        self.add_text(name, f"{values.dtype.str}{tuple(values.shape)}")
        rows = values.shape[0] if values.ndim else 0
        step = max(1, 2**24 // max(1, int(np.prod(values.shape[1:])) * values.dtype.itemsize))
        for start in range(0, rows, step):
            self._sha.update(np.ascontiguousarray(values[start : start + step]).data)
        if not values.ndim:
            self._sha.update(np.asarray(values[()]).tobytes())

    def hexdigest(self) -> str:
        """Return the digest of everything added so far."""
        return self._sha.hexdigest()
