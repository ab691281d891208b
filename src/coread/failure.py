"""How a command line says that it failed: one sentence first, the traceback below it."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reported_errors(*, in_terminal: bool = False) -> Iterator[None]:
    """Turn an exception of the block into `error: <sentence>` and its traceback on standard error, exit status 1.

    The sentence comes first: it is what the workflow shows of a failed job's log. In a terminal it stands alone where
    it says what is wrong with the input.
    """
    try:
        yield
    except SystemExit as error:
        # Lightning ends a training that got SIGTERM (time limit, pre-emption) with an exit that looks like success
        if type(error).__name__ != "SIGTERMException":
            raise
        print(
            "error: ended by SIGTERM before the work was done; started again, it goes on", file=sys.stderr, flush=True
        )
        sys.exit(128 + signal.SIGTERM)
    except (Exception, KeyboardInterrupt) as error:
        sentence = _sentence(error)
        shown = (
            sentence
            if in_terminal and sentence is not None
            else f"{sentence or repr(error)}\n\n{traceback.format_exc()}"
        )
        print(f"error: {shown}", file=sys.stderr, flush=True)
        sys.exit(1)


def _sentence(error: BaseException) -> str | None:
    """Return what is wrong with the input: the first ValueError or OSError, which Hydra wraps in its own error."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ValueError | OSError) and str(cause)):
        cause = cause.__cause__
    return None if cause is None else str(cause)
