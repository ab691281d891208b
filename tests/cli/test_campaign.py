"""`coread campaign`: what its commands say and do; SLURM is a few shell scripts here, Snakemake a recorder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coread import campaign
from coread.cli.campaign import main
from coread.cli.main import main as coread
from tests.campaigns.conftest import folder, slurm, supervised
from tests.campaigns.jobs import MEMBER, head_of, member_job
from tests.fake_slurm import FakeSlurm

__all__ = ["folder", "slurm", "supervised"]

SOURCE = str(Path(campaign.__file__).parent.parent)
Says = Callable[..., str]


@pytest.fixture
def says(capfd: pytest.CaptureFixture) -> Says:
    """Run a command that must succeed and return what it printed."""

    def run(*arguments: str) -> str:
        main([*arguments])
        return capfd.readouterr().out

    return run


@pytest.fixture
def refuses(capfd: pytest.CaptureFixture) -> Says:
    """Run a command that must fail and return its only sentence."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments])
        said = capfd.readouterr().err
        assert stopped.value.code == 1
        assert said.count("\n") == 1, said
        assert said.startswith("error: ")
        return said.removeprefix("error: ").strip()

    return run


@pytest.fixture
def dead(folder: Path) -> Path:
    """A campaign whose head was killed."""
    campaign.begin(head_of(folder, command=["--profile", "slurm", "all"]), [member_job(0), member_job(1)])
    return folder


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What this process would have become."""
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append(arguments[1:]))
    return became


@pytest.mark.parametrize("command", [["status"], ["resume", "--wait"], ["stop"], ["stop", "tiny/fold0/seed0"]])
def test_commands_need_a_campaign(refuses: Says, folder: Path, command: list[str]) -> None:
    assert f"no campaign was started in {folder}: logs/campaign/head.json does not exist" in refuses(*command)


def test_help_and_unknown_commands(says: Says, refuses: Says, capfd: pytest.CaptureFixture) -> None:
    coread(["campaign", "--help"])
    assert capfd.readouterr().out == says("resume", "--help") == says()
    assert "unknown command 'resum', expected status | resume | stop | allow" in refuses("resum")


# --------------------------------------------------------------------------------------------------------------- status


def test_status_shows_head_queue_attempts_and_stopped_jobs(says: Says, dead: Path, slurm: FakeSlurm) -> None:
    slurm.enqueue("41", dead, state="RUNNING", node="c1", comment=member_job(1).comment)
    path = Path("logs", f"{MEMBER}.log")
    command = [sys.executable, "-m", "coread.supervisor", str(path), "--", "true"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": SOURCE}, check=True)
    says("stop", "tiny/fold0/seed0")
    said = says("status")
    assert "head      killed: pid" in said
    assert "snakemake --profile slurm all" in said
    assert "queue     1 RUNNING; 1 of them left by an earlier run: `coread campaign resume`" in said
    assert " 41  RUNNING" in said
    assert "train_member/tiny/fold0/seed1" in said
    assert "train_member     1         1" in said
    assert f"stopped   {MEMBER}" in said
    campaign.end("success")
    assert "head      ended (success)" in says("status")


def test_status_of_a_queue_that_does_not_answer(refuses: Says, dead: Path, slurm: FakeSlurm) -> None:
    slurm.fail("squeue", "no controller")
    assert "the queue cannot be asked: squeue exited with 1: no controller" in refuses("status")


# --------------------------------------------------------------------------------------------------------------- resume


def test_resume_with_an_empty_queue_starts_again_as_before(
    says: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]]
) -> None:
    says("resume")
    assert become == [["-m", "snakemake", "--profile", "slurm", "all"]]
    says("resume", "--wait", "--", "models", "--cancel")
    assert become[1:] == [["-m", "snakemake", "models", "--cancel"]]
    assert slurm.cancelled() == []


def test_resume_cancels_or_waits_as_told(says: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]]) -> None:
    slurm.enqueue("1", dead)
    slurm.enqueue("2", dead.parent, run_id="coread_other")
    says("resume", "--cancel", "--poll", "0.01")
    assert slurm.cancelled() == ["1"]
    slurm.enqueue("3", dead)
    slurm.write("squeue", f"cat {slurm.queue}; sed -i '/^3/d' {slurm.queue}")  # it ends by itself
    said = says("resume", "--wait", "--poll", "0.01")
    assert "1 job of an earlier run in the queue (1 PENDING): waiting for them" in said
    assert slurm.cancelled() == ["1"]
    assert len(become) == 2


def test_resume_wants_a_choice_in_a_script(
    refuses: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.enqueue("1", dead)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115, PTH123
    said = refuses("resume")
    assert "--wait" in said
    assert "--cancel" in said
    assert become == []
    assert slurm.cancelled() == []


def test_resume_asks_in_a_terminal(
    says: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.enqueue("1", dead)
    answers = iter(["", "yes", "c"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    says("resume", "--poll", "0.01")
    assert slurm.cancelled() == ["1"]
    assert len(become) == 1


def test_resume_never_takes_silence_for_an_empty_queue(
    refuses: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]]
) -> None:
    slurm.fail("squeue", "no controller")
    assert "no controller" in refuses("resume", "--cancel")
    assert become == []


def test_resume_is_refused_while_the_head_lives(
    refuses: Says, dead: Path, slurm: FakeSlurm, become: list[list[str]]
) -> None:
    lock = campaign.hold_lock()
    assert "another process drives the campaign" in refuses("resume", "--wait")
    lock.release()
    assert become == []


# --------------------------------------------------------------------------------------------------------- stop, allow


def test_a_stopped_member_is_marked_before_it_is_cancelled(says: Says, dead: Path, slurm: FakeSlurm) -> None:
    slurm.enqueue("1", dead, comment=member_job(0).comment)
    slurm.enqueue("2", dead, comment=member_job(1).comment)
    slurm.write("scancel", f'test -e {dead}/logs/campaign/stopped/{MEMBER} && echo "$*" >> {slurm.folder}/cancelled')
    said = says("stop", "tiny/fold0/seed0")
    assert slurm.cancelled() == ["1"]
    assert f"{MEMBER}: cancelled (1); it is not started again until `coread campaign allow tiny/fold0/seed0`" in said
    assert "may run again" in says("allow", "tiny/fold0/seed0")
    assert campaign.stopped_jobs() == []


def test_stopping_one_of_a_shared_submission_says_whom_it_takes_along(says: Says, dead: Path, slurm: FakeSlurm) -> None:
    slurm.enqueue("1", dead, comment="rule_several")
    targets = " ".join(f"train_member:experiment=tiny,fold=0,seed={seed}" for seed in (0, 1))
    slurm.script("1", f"snakemake --target-jobs {targets} --cores 1")
    said = says("stop", MEMBER)
    assert (
        f"{MEMBER} shares its submission with train_member/tiny/fold0/seed1: they fail as long as it is stopped" in said
    )
    assert slurm.cancelled() == ["1"]
    assert campaign.stopped_jobs() == [MEMBER]


def test_an_unknown_member_is_answered_with_the_closest(refuses: Says, dead: Path, slurm: FakeSlurm) -> None:
    said = refuses("stop", "tiny/fold0/seed2")
    assert "the campaign has no member or job 'tiny/fold0/seed2' (did you mean 'tiny/fold0/seed" in said
    assert f"(known: {MEMBER}, train_member" in refuses("stop", "zzz")
    assert "(known: none)" in refuses("allow", "tiny/fold0/seed0")
    assert campaign.stopped_jobs() == []


def test_a_member_on_this_machine_is_ended_through_its_supervisor(
    says: Says, folder: Path, supervised: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if not Path("/usr/bin/squeue").exists() else "/nonexistent")
    campaign.begin(head_of(folder, executor="local"), [member_job(0)])
    assert f"{MEMBER}: ended; it is not started again" in says("stop", "tiny/fold0/seed0")
    assert supervised.wait(10) == 128 + signal.SIGTERM


def test_stopping_a_campaign_of_another_machine_names_it(refuses: Says, folder: Path, slurm: FakeSlurm) -> None:
    campaign.begin(head_of(folder, host="login7"), [])
    lock = campaign.hold_lock()
    assert "the campaign is driven from login7" in refuses("stop")
    lock.release()


HEAD = """
import os, sys, time, signal  # snakemake
from coread import campaign, orphans
from tests.campaigns.jobs import head_of
lock = campaign.hold_lock()
# said for both: a process of tests that run in the background inherits that Ctrl-C is ignored
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == "deaf" else signal.default_int_handler)
campaign.begin(head_of(os.getcwd(), pid=os.getpid()), [])
try:
    print("held", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.fixture
def live_head(folder: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Start a process that drives the campaign; a deaf one ignores Ctrl-C."""
    repository = Path(__file__).resolve().parent.parent.parent
    started = []

    def start(kind: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(repository / "src"), str(repository)))}
        process = subprocess.Popen(
            [sys.executable, "-c", HEAD, kind],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_stop_interrupts_the_head_and_cancels_what_is_left(
    says: Says, folder: Path, slurm: FakeSlurm, live_head: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    process = live_head("hearing")
    slurm.enqueue("1", folder)
    slurm.enqueue("2", folder.parent, run_id="coread_other")
    said = says("stop", "--poll", "0.01")
    assert process.communicate()[0] == "interrupted\n"
    assert slurm.cancelled() == ["1"]
    assert "nothing of this campaign is queued or running" in said


def test_stop_terminates_a_head_that_ignores_ctrl_c(
    says: Says,
    folder: Path,
    slurm: FakeSlurm,
    live_head: Callable[[str], "subprocess.Popen[str]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coread.cli.campaign.INTERRUPTED_S", 0.2)
    process = live_head("deaf")
    slurm.enqueue("1", folder)
    says("stop", "--poll", "0.01")
    assert process.communicate()[0] == ""
    assert slurm.cancelled() == ["1"]


def test_resume_runs_the_real_snakemake_and_unlocks(folder: Path, slurm: FakeSlurm) -> None:
    """The lock of a killed Snakemake is gone, and the workflow goes on with the recorded arguments."""
    (folder / "Snakefile").write_text(
        "rule all:\n    output: 'made'\n    shell: 'touch made; sleep {config[seconds]}'\n"
    )
    arguments = ["--cores", "1", "--config", "seconds=10"]
    command = [sys.executable, "-m", "snakemake"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL) as killed:
        while not (folder / "made").exists():
            assert killed.poll() is None
            time.sleep(0.05)
        killed.kill()
    assert list((folder / ".snakemake/locks").iterdir())
    campaign.begin(head_of(folder, executor="local", command=arguments), [])
    given = ["--cores", "1", "--rerun-incomplete", "--config", "seconds=0"]
    program = "import sys; from coread.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, "campaign", "resume", "--", *given],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(campaign.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert "unlocked" in done.stdout
    assert "1 of 1 steps (100%) done" in done.stderr
    assert json.loads(json.dumps(campaign.read_head().command)) == arguments
