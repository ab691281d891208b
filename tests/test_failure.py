"""How a command says that it failed."""

import signal
import subprocess
import sys

import pytest

from coread.failure import reported_errors


def _report(error: Exception, cause: Exception | None, capsys: pytest.CaptureFixture, **options: bool) -> str:
    with pytest.raises(SystemExit) as stopped, reported_errors(**options):
        raise error from cause
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_the_sentence_comes_first_and_the_traceback_below(capsys: pytest.CaptureFixture) -> None:
    lines = _report(ValueError("session 3 has no bins"), None, capsys).splitlines()
    assert lines[0] == "error: session 3 has no bins"
    assert any(line.startswith("Traceback") for line in lines)


def test_an_error_wrapped_by_another_library_still_says_what_is_wrong(capsys: pytest.CaptureFixture) -> None:
    shown = _report(RuntimeError("Error in call to target"), ValueError("the core cannot take 8 x 9 pixels"), capsys)
    assert shown.splitlines()[0] == "error: the core cannot take 8 x 9 pixels"


def test_a_terminal_shows_wrong_input_alone_and_a_defect_in_full(capsys: pytest.CaptureFixture) -> None:
    assert _report(FileNotFoundError("no such folder"), None, capsys, in_terminal=True) == "error: no such folder\n"
    assert "Traceback" in _report(KeyError("x"), None, capsys, in_terminal=True)


def _read_one_line(program: str, *options: str) -> tuple[str, int, str]:
    """Run statements in `reported_errors`; return the one line that is read, exit status and standard error."""
    program = f"from coread.failure import reported_errors\nwith reported_errors(in_terminal=True):\n    {program}\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *options, "-c", program], text=True, **pipes)
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    return line, process.wait(), errors


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("for number in range(100_000): print(number)", ()),
        ("for number in range(100_000): print(number)", ("-u",)),
        # what fits the buffer meets the closed pipe only when it is flushed
        ("import time; print(0, flush=True); time.sleep(0.5); print(1)", ()),
    ],
)
def test_a_reader_that_has_gone_is_no_error(program: str, options: tuple[str, ...]) -> None:
    assert _read_one_line(program, *options) == ("0\n", 128 + signal.SIGPIPE, "")


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert "a worker has gone" in _report(BrokenPipeError("a worker has gone"), None, capsys, in_terminal=True)
    program = "import os; r, w = os.pipe(); os.close(r); print(0, flush=True); os.write(w, b'x')"
    code = f"from coread.failure import reported_errors\nwith reported_errors(in_terminal=True):\n    {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode, done.stderr) == ("0\n", 1, "error: [Errno 32] Broken pipe\n")
