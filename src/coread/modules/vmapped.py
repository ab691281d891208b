"""Whether modules compute several models in one call (`torch.vmap`): what cannot be vectorised then runs plainly."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SEVERAL = ContextVar("several", default=False)


@contextmanager
def several_models() -> Iterator[None]:
    """Let modules know that what they compute inside is computed for several models at once."""
    token = _SEVERAL.set(True)
    try:
        yield
    finally:
        _SEVERAL.reset(token)


def computes_several() -> bool:
    """Return whether several models are computed in one call."""
    return _SEVERAL.get()
