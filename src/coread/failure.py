"""How a command line says that it failed: one sentence first, the traceback below it."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reported_errors() -> Iterator[None]:
    """Turn an exception of the block into `error: <sentence>` and its traceback on standard error, exit status 1.

    The sentence comes first: it is what the workflow shows of a failed job's log.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sentence = str(error) if isinstance(error, ValueError | OSError) and str(error) else repr(error)
        print(f"error: {sentence}\n\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        sys.exit(1)
