"""How a command says that it failed."""

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
