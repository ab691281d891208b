import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from coread.member_lock import MemberLockError, member_lock

HOLD = """
import sys
from pathlib import Path
from coread.member_lock import member_lock
with member_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
# two of these at once would see each other's mark
TRAIN = """
import sys, time
from pathlib import Path
from coread.member_lock import member_lock
folder = Path(sys.argv[1])
for _ in range(20):
    with member_lock(folder, patience_s=60):
        mark = folder / "training"
        mark.touch(exist_ok=False)
        time.sleep(0.005)
        mark.unlink()
    time.sleep(0.005)
"""


def hold(folder: Path, job_id: str | None = None) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | ({} if job_id is None else {"SLURM_JOB_ID": job_id}),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(("job_id", "told"), [(None, ""), ("4711", ", job 4711")])
def test_a_second_training_fails_and_names_the_first(tmp_path: Path, job_id: str | None, told: str) -> None:
    with hold(tmp_path, job_id) as first:
        with pytest.raises(MemberLockError, match=rf"trained by process {first.pid} on \S+{told}, which did not end"):  # noqa: SIM117
            with member_lock(tmp_path, patience_s=0.2):
                pytest.fail("two trainings at once")
        first.communicate("end\n")
    with member_lock(tmp_path, patience_s=0):
        pass


def test_a_second_training_waits_for_the_first(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        waiting = subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path)])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=1)
        assert not (tmp_path / "training").exists()
        first.communicate("end\n")
    assert waiting.wait(timeout=60) == 0


def test_two_trainings_never_run_at_once(tmp_path: Path) -> None:
    both = [subprocess.Popen([sys.executable, "-c", TRAIN, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]


def test_a_killed_training_lets_go(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        first.kill()
        first.wait()
    with member_lock(tmp_path, patience_s=5):
        pass


def test_what_resumes_may_be_removed_while_the_lock_is_held(tmp_path: Path) -> None:
    (tmp_path / ".work").mkdir()
    with member_lock(tmp_path):
        shutil.rmtree(tmp_path / ".work")
        with pytest.raises(MemberLockError), member_lock(tmp_path, patience_s=0):
            pass


def test_without_locks_in_the_file_system_it_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with member_lock(tmp_path):
        pass
    assert "the file system has no locks" in caplog.text
    assert "No locks available" in caplog.text
