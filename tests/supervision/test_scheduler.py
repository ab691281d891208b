"""What the supervisor asks the scheduler, the GPUs and the stop mark."""

import os
import signal
import subprocess

import pytest

from tests.supervision.attempts import PATIENCE_S, RUNNING, SLEEP, Workplace, is_running

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
