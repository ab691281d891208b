"""Attempts under the supervisor: logs, records, signals, and ends with their Snakemake."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coread.attempt_log import Attempt, error_sentence, last_lines
from tests.supervision.attempts import DECLARED, PATIENCE_S, RUNNING, SLEEP, Workplace, is_running

# ----------------------------------------------------------------------------------------------------- logs and records


def test_an_attempt_leaves_its_log_its_records_and_a_link(workplace: Workplace) -> None:
    status, output = workplace.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (status, output) == (0, "")
    declared = workplace.root / DECLARED
    assert declared.is_symlink()
    assert str(declared.readlink()) == "seed1.attempt-1.log"
    assert sorted(declared.read_text().split()) == ["err", "out"]
    start, end = workplace.records
    assert (start["event"], start["job"], start["attempt"]) == ("start", "train_member/tiny/fold0/seed1", 1)
    assert start["log"] == "logs/train_member/tiny/fold0/seed1.attempt-1.log"
    assert start["requested"] == {"mem_mb": None, "runtime_min": None, "gpus": None}
    assert [start[key] for key in ("job_id", "node", "submitted", "restarts", "partition")] == [None] * 5
    assert (end["event"], end["exit"], end["signal"], end["reason"]) == ("end", 0, None, None)
    assert start["started"] <= end["ended"]


def test_the_logs_of_earlier_attempts_are_kept(workplace: Workplace) -> None:
    workplace.run("print('first'); raise SystemExit(3)")
    (workplace.root / DECLARED).unlink()  # as Snakemake does before a retry
    workplace.run("print('second')")
    assert workplace.log(1).read_text() == "first\n"
    assert (workplace.root / DECLARED).read_text() == "second\n"
    assert [(record["event"], record["attempt"]) for record in workplace.records] == [
        ("start", 1),
        ("end", 1),
        ("start", 2),
        ("end", 2),
    ]
    assert [record["exit"] for record in workplace.records[1::2]] == [3, 0]


def test_a_record_cut_off_by_a_crash_spoils_no_other(workplace: Workplace) -> None:
    workplace.run("pass")
    path = workplace.root / DECLARED.replace(".log", ".attempts.jsonl")
    path.write_text(path.read_text() + '{"event": "start", "attempt": 2, "jo')
    workplace.log(2).touch()
    workplace.run("pass")
    assert [(record["event"], record["attempt"]) for record in workplace.records] == [
        ("start", 1),
        ("end", 1),
        ("start", 3),
        ("end", 3),
    ]


def test_a_failure_is_told_in_one_line_with_rule_member_reason_and_log(workplace: Workplace) -> None:
    code = "import sys\nfor i in range(30): print('line', i)\nsys.exit('error: session 3 has no bins\\n\\nTraceback')"
    status, output = workplace.run(code)
    assert status == 1
    log = DECLARED.replace(".log", ".attempt-1.log")
    assert output == f"train_member tiny/fold0/seed1, attempt 1: session 3 has no bins (log: {log})\n"
    end = workplace.records[-1]
    assert end["reason"] == "session 3 has no bins"
    assert len(end["last_lines"]) == 20
    assert end["last_lines"][-2:] == ["error: session 3 has no bins", "Traceback"]


def test_a_program_that_does_not_exist_is_an_attempt_that_failed(workplace: Workplace) -> None:
    process = workplace.start(workplace.command("no-such-program"))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "no-such-program cannot be started: No such file or directory" in output
    assert workplace.records[-1]["exit"] == 1
    assert "no-such-program" in workplace.log(1).read_text()


def test_peak_memory_and_processor_time_are_the_kernels(workplace: Workplace) -> None:
    # touched for an instant and given back: no sampling would see it
    workplace.run("data = bytearray(200 * 2**20); del data; sum(range(3_000_000))")
    end = workplace.records[-1]
    assert 200 <= end["peak_memory_mb"] < 300
    assert end["cpu_s"] > 0


def test_a_log_outside_logs_is_refused(workplace: Workplace) -> None:
    process = workplace.start([sys.executable, "-m", "coread.supervisor", "other/x.log", "--", "true"])
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "found other/x.log" in output


def test_last_lines_and_the_error_sentence_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"error: early\n" + b"x" * 100_000 + b"\n 10%\r 50%\r100%\nerror: late, \xff\n\n")
    assert error_sentence(log) == "late, \ufffd"
    lines = last_lines(log)
    assert lines[1:] == ["100%", "error: late, \ufffd"]
    assert len(lines[0]) == 500


def test_two_attempts_that_begin_together_share_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    attempts = [Attempt.begin(Path(DECLARED)) for _ in range(3)]
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert len({attempt.log for attempt in attempts}) == 3


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_reaches_the_script_once_and_decides_the_status(
    workplace: Workplace, number: signal.Signals, reason: str
) -> None:
    code = f"""
import signal, sys, time
def end(number, frame):
    print("got", number, flush=True)
    time.sleep(1)
    sys.exit(128 + number)
signal.signal({int(number)}, end)
print("ready", flush=True)
time.sleep(300)
"""
    process = workplace.python(code)
    workplace.wait_until_ready()
    for _ in range(3):
        process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert workplace.log(1).read_text().count("got") == 1
    assert reason in workplace.records[-1]["reason"]


def test_a_script_that_will_not_end_is_killed_with_what_it_started(workplace: Workplace) -> None:
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print("child", child.pid, flush=True)
time.sleep(300)
"""
    workplace.grace_s = 1.0
    process = workplace.python(code)
    workplace.wait_until_ready()
    child = int(workplace.log(1).read_text().split()[1])
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGKILL
    workplace.wait_for(lambda: not is_running(child), "the end of the script's child")


def test_what_a_finished_script_left_running_is_ended(workplace: Workplace) -> None:
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print("child", child.pid, flush=True)
"""
    status, _ = workplace.run(code)
    assert status == 0
    child = int(workplace.log(1).read_text().split()[1])
    workplace.wait_for(lambda: not is_running(child), "the end of the script's child")


def test_warning_signals_of_the_scheduler_end_neither_supervisor_nor_script(workplace: Workplace) -> None:
    code = "import time, pathlib; print('ready', flush=True)\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)"
    process = workplace.python(code)
    script = workplace.wait_until_ready()
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        process.send_signal(number)
        os.kill(script, number)
    (workplace.root / "go").touch()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert workplace.records[-1]["exit"] == 0


def test_a_script_killed_from_outside_is_suspected_of_memory(workplace: Workplace) -> None:
    workplace.slurm(RUNNING.format(preempt="None"))
    process = workplace.python(SLEEP)
    os.kill(workplace.wait_until_ready(), signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    end = workplace.records[-1]
    assert process.returncode == 137
    assert (end["exit"], end["signal"]) == (137, "SIGKILL")
    peak = f"{end['peak_memory_mb']:.0f}"
    assert end["reason"] == f"killed by SIGKILL: out of memory? peak {peak} MB of 500 MB asked"


# ---------------------------------------------------------------------------------------------- ends with its Snakemake


def parent_code(place: Workplace) -> str:
    """Return a program that starts an attempt and waits for it, as Snakemake does."""
    return f"import subprocess; subprocess.run({place.command(sys.executable, '-c', SLEEP)!r})"


def test_the_script_ends_when_the_supervisors_parent_is_killed(workplace: Workplace) -> None:
    parent = workplace.start([sys.executable, "-c", parent_code(workplace)])
    script = workplace.wait_until_ready()
    parent.kill()
    workplace.wait_for(lambda: not is_running(script), "the end of the script")
    workplace.wait_for(lambda: workplace.records[-1]["event"] == "end", "the record of the end")
    assert workplace.records[-1]["reason"] == "killed because its Snakemake was gone"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_the_script_ends_when_the_supervisor_is_killed(workplace: Workplace) -> None:
    process = workplace.python(SLEEP)
    script = workplace.wait_until_ready()
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    workplace.wait_for(lambda: not is_running(script), "the end of the script")
    assert [record["event"] for record in workplace.records] == ["start"], "killed without a word"


def test_a_supervisor_whose_parent_is_gone_from_the_start_ends(workplace: Workplace) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    command = workplace.command(sys.executable, "-c", SLEEP)
    process = workplace.start([*command[:3], "--parent", str(ended.pid), *command[3:]])
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 137
