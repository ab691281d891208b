"""Packages that only some users need: imported when they are used, named with their extra when they are missing."""

from importlib import import_module
from typing import Any


class MissingExtraError(ImportError, ValueError):
    """A package that belongs to an extra is not installed; the message says how to install it."""


def import_extra(package: str, extra: str, purpose: str) -> Any:
    """Return the package; raises MissingExtraError that says what needs it and which extra holds it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{purpose} needs the package {package}: pip install 'coread[{extra}]'") from error
