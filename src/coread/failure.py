"""How a command line says that it failed: one sentence first, the traceback below it."""

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reported_errors(*, in_terminal: bool = False) -> Iterator[None]:
    """Turn an exception of the block into `error: <sentence>` and its traceback on standard error, exit status 1.

    The sentence comes first: it is what the workflow shows of a failed job's log. In a terminal it stands alone where
    it says what is wrong with the input. Where the reader of standard output has gone (`| head`), the command ends as
    one that SIGPIPE ends: without a word, status 141.
    """
    try:
        yield
        sys.stdout.flush()  # here, where a reader that has gone is no surprise; at the interpreter's exit it is one
    except SystemExit as error:
        # Lightning ends a training that got SIGTERM (time limit, pre-emption) with an exit that looks like success
        if type(error).__name__ != "SIGTERMException":
            raise
        print(
            "error: ended by SIGTERM before the work was done; started again, it goes on", file=sys.stderr, flush=True
        )
        sys.exit(128 + signal.SIGTERM)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            # what is still in the buffer has no reader either, and the interpreter flushes it when it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        sentence = _sentence(error)
        shown = (
            sentence
            if in_terminal and sentence is not None
            else f"{sentence or repr(error)}\n\n{traceback.format_exc()}"
        )
        print(f"error: {shown}", file=sys.stderr, flush=True)
        sys.exit(1)


def _reader_is_gone() -> bool:
    """Return whether standard output is a pipe that nobody reads: another broken pipe is an error like others."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # not a file of the system
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _sentence(error: BaseException) -> str | None:
    """Return what is wrong with the input: the first ValueError or OSError, which Hydra wraps in its own error."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, ValueError | OSError) and str(cause)):
        cause = cause.__cause__
    return None if cause is None else str(cause)
