import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coread.attempt_log import Attempt, error_sentence, last_lines, read_records

DECLARED = "logs/train_member/tiny/fold0/seed1.log"
PATIENCE_S = 60.0
SLEEP = "import time; print('ready', flush=True); time.sleep(300)"
SCONTROL = """\
#!/bin/sh
echo "$@" >> "{calls}"
case "$1" in
  show) cat "{answer}" ;;
  requeue) exit {requeue} ;;
esac
"""
RUNNING = (
    "JobId=7 JobName=x JobState=RUNNING Reason=None Restarts=1 TimeLimit=1-02:03:00 SubmitTime=2096-01-02T03:04:05 "
    "StartTime=2096-01-02T03:05:05 PreemptTime={preempt} Partition=gpu TRES=cpu=1,mem=500M,node=1,billing=1 "
    "TresPerJob=gres:gpu:a100:2\n"
)


class Workplace:
    """A folder in which attempts of one job run, with programs of its own on the path."""

    def __init__(self, root: Path) -> None:
        self.root, self.started = root, list[subprocess.Popen[str]]()
        self.interval_s, self.grace_s = 5.0, 20.0
        (root / "bin").mkdir()
        # no scheduler and no GPU of the machine that runs the tests
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "CUDA_VISIBLE"))
        } | {"PATH": f"{root / 'bin'}:{os.environ['PATH']}", "TZ": "UTC"}

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def slurm(self, answer: str, *, requeue: int = 0) -> Path:
        """Put a scheduler on the path that knows one job; returns the file that lists what it was asked."""
        calls, told = self.root / "calls", self.root / "answer"
        told.write_text(answer)
        calls.touch()
        self.program("scontrol", SCONTROL.format(calls=calls, answer=told, requeue=requeue))
        self.environment |= {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "g1"}
        return calls

    def command(self, *command: str) -> list[str]:
        """Return what a rule runs, with the clocks of this class."""
        clocks = f"gpu_usage.INTERVAL_S, supervisor.GRACE_S = {self.interval_s}, {self.grace_s}"
        code = f"from coread import gpu_usage, supervisor; {clocks}; supervisor.main()"
        return [sys.executable, "-c", code, DECLARED, "--", *command]

    def start(self, command: list[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def python(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        return self.start(self.command(sys.executable, "-c", code, *arguments))

    def run(self, code: str) -> tuple[int, str]:
        process = self.python(code)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def log(self, number: int) -> Path:
        return self.root / DECLARED.replace(".log", f".attempt-{number}.log")

    @property
    def records(self) -> list[dict[str, Any]]:
        return read_records(self.root / DECLARED.replace(".log", ".attempts.jsonl"))

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.05)

    def wait_until_ready(self, number: int = 1) -> int:
        """Wait until the script of an attempt runs, and return its pid."""
        self.wait_for(lambda: self.log(number).exists() and "ready" in self.log(number).read_text(), "the script")
        self.wait_for(lambda: any(r["attempt"] == number for r in self.records), "the record of the start")
        return int(next(r["pid"] for r in self.records if r["attempt"] == number))


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    place = Workplace(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


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


# ---------------------------------------------------------------------------------------------------------- a scheduler


def test_the_start_tells_what_the_scheduler_knows(workplace: Workplace) -> None:
    workplace.slurm(RUNNING.format(preempt="None"))
    workplace.run("pass")
    start = workplace.records[0]
    assert start["requested"] == {"mem_mb": 500.0, "runtime_min": 1563.0, "gpus": 2}
    assert (start["job_id"], start["node"], start["restarts"], start["partition"]) == ("7", "g1", 1, "gpu")
    assert (start["submitted"], start["job_started"]) == ("2096-01-02T03:04:05+00:00", "2096-01-02T03:05:05+00:00")


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\nexec sleep 60\n"])
def test_a_node_that_may_not_ask_the_scheduler_leaves_its_facts_open(workplace: Workplace, program: str) -> None:
    workplace.slurm("")
    workplace.program("scontrol", program)
    assert workplace.run("pass")[0] == 0
    start = workplace.records[0]
    assert (start["job_id"], start["submitted"], start["restarts"]) == ("7", None, None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"JobState=RUNNING": "JobState=COMPLETING", "Reason=None": "Reason=TimeLimit"}, "time limit of 1563 min"),
        ({"JobState=RUNNING": "JobState=COMPLETING"}, "scancel or requeue"),
        ({}, "time limit, pre-emption, requeue or scancel"),
    ],
)
def test_the_scheduler_tells_why_a_job_was_ended(workplace: Workplace, said: dict[str, str], reason: str) -> None:
    answer = RUNNING.format(preempt="None")
    calls = workplace.slurm(answer)
    process = workplace.python(SLEEP)
    workplace.wait_until_ready()
    for old, new in said.items():
        answer = answer.replace(old, new)
    (workplace.root / "answer").write_text(answer)
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert workplace.records[-1]["reason"] == f"ended by SIGTERM: {reason}"
    assert "requeue" not in calls.read_text(), "what has ended the job decides whether it runs again"


@pytest.mark.parametrize("told_first", ["supervisor", "script"])
def test_a_preempted_job_is_requeued_and_waits_to_be_killed(workplace: Workplace, told_first: str) -> None:
    calls = workplace.slurm(RUNNING.format(preempt="None"))
    process = workplace.python(SLEEP)
    script = workplace.wait_until_ready()
    (workplace.root / "answer").write_text(RUNNING.format(preempt="2096-01-02T04:00:00"))
    if told_first == "script":
        os.kill(script, signal.SIGTERM)
    else:
        process.terminate()
    workplace.wait_for(lambda: "requeue 7" in calls.read_text(), "the requeue")
    assert not is_running(script)
    assert workplace.records[-1]["reason"] == "ended by SIGTERM: pre-empted"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)  # an end of its own would be a failure that the workflow sends again beside Slurm


def test_a_job_whose_time_is_up_says_so_at_once(workplace: Workplace) -> None:
    """Slurm kills such a job while its script is still ending, and then no other record is left."""
    workplace.slurm(RUNNING.format(preempt="None").replace("2096", "2026"))
    process = workplace.python(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}")
    workplace.wait_until_ready()
    process.terminate()
    workplace.wait_for(lambda: workplace.records[-1]["event"] == "signal", "the record of the signal")
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    told = workplace.records[-1]
    assert (told["signal"], told["reason"]) == ("SIGTERM", "ended by SIGTERM: time limit of 1563 min")


def test_a_preemption_of_an_earlier_run_of_the_job_requeues_nothing(workplace: Workplace) -> None:
    calls = workplace.slurm(RUNNING.format(preempt="2096-01-02T03:00:00"))
    process = workplace.python(SLEEP)
    workplace.wait_until_ready()
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert "requeue" not in calls.read_text()


def test_a_refused_requeue_ends_as_a_failure_that_the_workflow_sends_again(workplace: Workplace) -> None:
    calls = workplace.slurm(RUNNING.format(preempt="2096-01-02T04:00:00"), requeue=1)
    process = workplace.python(SLEEP)
    workplace.wait_until_ready()
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert "requeue 7" in calls.read_text()


# ----------------------------------------------------------------------------------------------- GPUs and the stop mark


def test_gpu_memory_and_utilisation_are_sampled(workplace: Workplace) -> None:
    answers = "if [ -e sampled ]; then echo '3000, 80'; echo '2000, 40'; else echo '500, 0'; echo '500, 0'; fi"
    text = f'#!/bin/sh\necho "$@" >> asked\n{answers}\ntouch sampled\n'
    workplace.program("nvidia-smi", text)
    workplace.interval_s = 0.05
    workplace.environment["CUDA_VISIBLE_DEVICES"] = "0,1"
    code = "import pathlib, time\nwhile len(pathlib.Path('asked').read_text().splitlines()) < 3: time.sleep(0.05)"
    (workplace.root / "asked").touch()
    workplace.run(code)
    end = workplace.records[-1]
    assert end["gpu_peak_memory_mb"] == 5000
    assert 0.3 <= end["gpu_utilization"] < 0.6
    assert "--id=0,1" in (workplace.root / "asked").read_text()


@pytest.mark.parametrize("answer", ["echo '[N/A], [N/A]'", "exit 9"])
def test_a_gpu_that_cannot_be_asked_is_left_open(workplace: Workplace, answer: str) -> None:
    workplace.program("nvidia-smi", f"#!/bin/sh\ntouch asked\n{answer}\n")
    workplace.environment["CUDA_VISIBLE_DEVICES"] = "0"
    assert workplace.run("import pathlib, time\nwhile not pathlib.Path('asked').exists(): time.sleep(0.05)")[0] == 0
    end = workplace.records[-1]
    assert (end["gpu_peak_memory_mb"], end["gpu_utilization"]) == (None, None)


def test_a_stopped_member_is_refused_and_told_how_to_let_it_run_again(workplace: Workplace) -> None:
    marker = workplace.root / "logs/campaign/stopped/train_member/tiny/fold0/seed1"
    marker.parent.mkdir(parents=True)
    marker.touch()
    status, output = workplace.run("import pathlib; pathlib.Path('ran').touch()")
    assert status == 1
    assert not (workplace.root / "ran").exists()
    sentence = (
        "train_member/tiny/fold0/seed1 was stopped by `coread campaign stop`; "
        "`coread campaign allow tiny/fold0/seed1` lets it run again"
    )
    assert workplace.log(1).read_text() == f"error: {sentence}\n"
    assert sentence in output
    assert [record["event"] for record in workplace.records] == ["start", "end"]
    assert workplace.records[-1]["reason"] == sentence
    marker.unlink()
    assert workplace.run("import pathlib; pathlib.Path('ran').touch()")[0] == 0
    assert (workplace.root / "ran").exists()
