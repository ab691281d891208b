"""How a command line says that it failed: one sentence first, the traceback below it."""

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
    except (Exception, KeyboardInterrupt) as error:
        print(f"error: {_sentence(error)}\n\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        sys.exit(1)


def _sentence(error: BaseException) -> str:
    # what was wrong with the input stands in the first ValueError or OSError; Hydra wraps it in an error of its own
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ValueError | OSError) and str(cause)):
        cause = cause.__cause__
    return repr(error) if cause is None else str(cause)
