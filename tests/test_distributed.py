"""Several processes that train one member do what one process does that accumulates their gradients."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytorch_lightning as pl
import torch

from coread.attempt_log import killed_process
from coread.callbacks import epoch_seed
from coread.data_io.cyclers import LongCycler, SharedCycler, ShortCycler
from coread.data_io.splits import TRAIN, VALIDATION
from coread.distributed import Ranks, find_ranks, srun_command, torchrun_command
from coread.training import Epochs, _prepare, _session_windows, train
from tests.conftest import REPOSITORY
from tests.rank_program import FEW, SPARE, fit, one_session, three_sessions, with_trainer

LOADERS = {"a": list(range(1)), "b": list(range(5)), "c": list(range(2))}


# --------------------------------------------------------------------------------------------------- sharing of batches


@pytest.mark.parametrize("size", [2, 3, 4, 20])
@pytest.mark.parametrize("cycler", [LongCycler(LOADERS, shuffle=False), ShortCycler(LOADERS)])
def test_ranks_share_the_sequence_of_one_process(cycler: LongCycler | ShortCycler, size: int) -> None:
    shares = [list(SharedCycler(cycler, rank, size)) for rank in range(size)]
    n_steps = -(-len(cycler) // size)
    assert [len(share) for share in shares] == [n_steps] * size == [len(SharedCycler(cycler, 0, size))] * size
    visited = [(session, batch) for step in zip(*shares, strict=True) for session, batch, weight in step if weight]
    assert visited == list(cycler)
    for share in shares:
        *before, (session, batch, weight) = share
        assert all(weight == 1.0 for *_, weight in before)
        # who has no batch left repeats the step's first, for nothing
        assert weight == 1.0 or (weight, session, batch) == (0.0, *shares[0][-1][:2])


def test_a_rank_makes_only_the_batches_of_its_own_share() -> None:
    class Counted(list):
        made = 0

        def __getitem__(self, index: Any) -> Any:
            self.made += 1
            return super().__getitem__(index)

    loaders = {"a": Counted(range(6)), "b": Counted(range(6))}
    assert [session for session, *_ in SharedCycler(LongCycler(loaders, shuffle=False), 1, 2)] == ["b"] * 6
    assert (loaders["a"].made, loaders["b"].made) == (0, 6)


# ---------------------------------------------------------------------------------------------------- who is which rank

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NNODES": "2"}
STEP = BATCH | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


def test_a_rank_knows_itself_from_its_launcher() -> None:
    assert find_ranks(4, TORCHRUN) == Ranks(3, 4, 1, 2, "torchrun")
    assert find_ranks(4, STEP | {"SLURM_STEP_NUM_TASKS": "4"}) == Ranks(3, 4, 1, 2, "srun")


def test_one_process_is_alone_whatever_its_allocation_says() -> None:
    for environment in ({}, BATCH, STEP | {"SLURM_STEP_NUM_TASKS": "4"}, TORCHRUN):
        assert find_ranks(1, environment) == Ranks()


@pytest.mark.parametrize(
    ("environment", "found"),
    [({}, 1), (BATCH, 1), (STEP | {"SLURM_STEP_NUM_TASKS": "1"}, 1), (TORCHRUN, 4)],
    ids=["alone", "batch script", "step of the workflow", "other number"],
)
def test_who_is_no_rank_is_told_so(environment: dict[str, str], found: int) -> None:
    with pytest.raises(ValueError, match=rf"trainer.num_processes is 2, but .* one of {found}:"):
        find_ranks(2, environment)


def test_one_process_ignores_a_task_number(tmp_path: Path) -> None:
    """The number of a task in its allocation is no rank: the only process writes its checkpoints and the log."""
    program = (
        "from pathlib import Path; from tests.rank_program import SPARE, fit, one_session, with_trainer; "
        f"fit(with_trainer(SPARE, max_epochs=1), one_session(), Path({str(tmp_path)!r}))"
    )
    variables = STEP | {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "last.ckpt").exists()
    assert "MEMBER: " not in done.stderr


def test_ranks_do_not_accumulate_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    settings = with_trainer(SPARE, num_processes=4, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="num_processes=4 already accumulates the gradients of 4 batches"):
        train(settings, three_sessions(), 0, 0, work_dir=tmp_path, accelerator="cpu")


# ------------------------------------------------------------------------------------------------------------ launching

JOB = {"JobId": "7", "NumNodes": "2", "NumTasks": "4", "CPUs/Task": "3", "TRES": "cpu=12,mem=8G,node=2"}


def test_srun_is_told_everything_that_the_job_was_granted() -> None:
    command = srun_command(4, JOB, ["python", "train.py"])
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3"} < set(command)
    assert {"--kill-on-bad-exit=1", "--overlap"} < set(command)
    assert (command[0], command[-2:]) == ("srun", ["python", "train.py"])
    assert not any("gpu" in option for option in command), "a binding would hide GPUs from the ranks"


@pytest.mark.parametrize(
    ("job", "message"),
    [({"NumTasks": "1"}, r"job 7 was granted 1 task\(s\): ask for --ntasks=4"), ({"NumNodes": "3"}, "the 3 nodes")],
)
def test_a_job_that_cannot_hold_the_ranks_is_named(job: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        srun_command(4, JOB | job, ["python"])


# ------------------------------------------------------------------------------------------------------- real processes


def run_ranks(folder: Path, *scenarios: str, by_launcher: bool = False) -> "subprocess.CompletedProcess[str]":
    """Start the ranks as a user does, or by torch's launcher right away, which saves a few seconds."""
    command = [sys.executable, "-m", "tests.rank_program", str(folder), *scenarios]
    if by_launcher:
        command = torchrun_command(2, command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)


# a, b, c in turn, three batches of each: the fifth step has one batch
N_STEPS = 5


def load(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"{name}.rank{rank}.pt", weights_only=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As each rank has one core: another number of threads sums float32 in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left of trainings that went well."""
    folder = tmp_path_factory.mktemp("ranks")
    done = run_ranks(folder, "parity", "resume")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process that accumulates the gradients of two batches."""
    settings = with_trainer(SPARE, accumulate_grad_batches=2)
    return fit(settings, three_sessions(), tmp_path_factory.mktemp("accumulated"))


def assert_close(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        found = other[name]
        if value is None or found is None:
            assert value is found, f"{name} has a gradient in one of them only"
        else:
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-9, msg=partial("{}: {}".format, name))


def test_gradients_are_those_of_an_accumulating_process(folder: Path, accumulated: dict[str, Any]) -> None:
    steps = accumulated["gradients"]
    assert len(steps) == 3 * N_STEPS
    for rank in (0, 1):
        found = load(folder, "parity", rank)["gradients"]
        assert len(found) == len(steps)
        for expected, gradients in zip(steps, found, strict=True):
            assert_close(expected, gradients)


def test_a_rank_without_a_batch_moves_nothing(folder: Path) -> None:
    """The last of nine batches is session c's: no other readout has a gradient in that step."""
    last = load(folder, "parity")["gradients"][N_STEPS - 1]
    assert {name.split(".")[1] for name, value in last.items() if "readout" in name and value is not None} == {"c"}


def test_absent_sessions_are_left_alone_by_adamw(folder: Path, accumulated: dict[str, Any]) -> None:
    """Neither decay nor momentum moves a readout whose session is in no rank's batch."""
    found = load(folder, "parity")
    first, second = found["weights"][:2]
    absent = [name for name, value in found["gradients"][0].items() if value is None]
    assert {name.split(".")[1] for name in absent} == {"c"}
    assert all(torch.equal(first[name], second[name]) for name in absent)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert found["optimizer_steps"] == accumulated["optimizer_steps"]
    assert found["optimizer_steps"]["core.features.layer0.bias.bias"] == 3 * N_STEPS
    assert {found["optimizer_steps"][f"readout.{session}.features"] for session in "abc"} == {3 * 3}


def test_weights_running_statistics_and_history_are_those_of_one_process(
    folder: Path, accumulated: dict[str, Any]
) -> None:
    for rank in (0, 1):
        found = load(folder, "parity", rank)
        assert_close(accumulated["final"], found["final"])
        assert found["history"].keys() == accumulated["history"].keys()
        for name, values in accumulated["history"].items():
            assert found["history"][name] == pytest.approx(values, rel=1e-5, abs=1e-7), name
    statistics = [name for name in accumulated["final"] if "running" in name or "num_batches" in name]
    assert len(statistics) == 3


def test_a_readout_without_a_core_and_fewer_batches_than_ranks(folder: Path, tmp_path: Path) -> None:
    expected = fit(with_trainer(FEW, accumulate_grad_batches=2), one_session(), tmp_path)
    for rank in (0, 1):
        found = load(folder, "few", rank)
        assert_close(expected["final"], found["final"])
        assert found["history"]["val_loss"] == pytest.approx(expected["history"]["val_loss"], rel=1e-5)


def test_validation_is_that_of_one_process(folder: Path) -> None:
    """The same weights, validated by one process: the same scores to the last digit."""
    found = load(folder, "parity", 1)
    recordings = three_sessions()
    model, fitted = _prepare(SPARE, recordings, 0)
    model.load_state_dict(found["final"])
    prepared = (model, fitted, torch.device("cpu"))
    windows = {label: _session_windows(SPARE, recordings, label, *prepared) for label in (TRAIN, VALIDATION)}
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (scores,) = trainer.validate(model, Epochs(windows, 0), verbose=False)
    best = found["history"]["val_correlation"].index(max(found["history"]["val_correlation"]))
    for name, value in scores.items():
        assert found["history"][name][best] == value, name


def test_all_ranks_keep_the_same_epoch_and_history(folder: Path) -> None:
    for name in ("parity", "few", "whole"):
        first, second = load(folder, name, 0), load(folder, name, 1)
        assert first["history"] == second["history"]
        assert all(torch.equal(value, second["final"][key]) for key, value in first["final"].items())


def test_every_rank_draws_a_stream_of_its_own_that_survives_a_resume(folder: Path) -> None:
    whole, resumed = ([load(folder, name, rank)["drawn"] for rank in (0, 1)] for name in ("whole", "resumed"))
    assert len({*whole[0].values(), *whole[1].values()}) == 8
    assert resumed == [{epoch: drawn[epoch] for epoch in (2, 3)} for drawn in whole]
    assert epoch_seed(3, 2, rank=0) == epoch_seed(3, 2)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert all(torch.equal(value, other["final"][name]) for name, value in one["final"].items())
    assert one["history"] == other["history"]


def test_a_resumed_training_has_the_same_bits(folder: Path) -> None:
    for rank in (0, 1):
        assert_same(load(folder, "whole", rank), load(folder, "resumed", rank))


RANK = """
import sys
from coread.distributed import Ranks, _settle

rank = int(sys.argv[1])
_settle(Ranks(rank, 2, rank, 2, "srun"))
held = bytes(1) * (60 * 2**20)
"""


def test_an_attempt_tells_what_all_ranks_used(tmp_path: Path) -> None:
    program = "".join(f"{sys.executable} -c '{RANK}' {rank} & " for rank in (0, 1)) + "wait"
    command = [sys.executable, "-m", "coread.supervisor", "logs/train_member/x.log", "--", "bash", "-c", program]
    subprocess.run(command, cwd=tmp_path, check=True)
    *_, end = map(json.loads, (tmp_path / "logs/train_member/x.attempts.jsonl").read_text().splitlines())
    assert end["peak_memory_mb"] > 2 * 60
    assert not list(tmp_path.rglob("*.usage"))


@pytest.mark.parametrize(
    ("lines", "killed"),
    [
        ("epoch 3/9\nsrun: error: g1: task 1: Killed\nslurmstepd: *** STEP 3.0 CANCELLED AT x ***", "g1: task 1"),
        ("E1121 api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 7) of binary: python", "local_rank: 1"),
        ("srun: forcing job termination\nsrun: error: g1: tasks 0-1: Killed", None),
        ("slurmstepd: error: *** STEP 7.0 ON g1 CANCELLED AT x ***\nsrun: error: g1: task 0: Killed", None),
        ("srun: error: g1: task 1: Exited with exit code 1", None),
    ],
)
def test_a_killed_rank_is_told_from_ranks_that_were_ended(tmp_path: Path, lines: str, killed: str | None) -> None:
    (tmp_path / "log").write_text(lines)
    assert killed_process(tmp_path / "log") == killed


@pytest.mark.acceptance
def test_a_dead_rank_ends_the_others_and_the_next_attempt_resumes(folder: Path) -> None:
    done = run_ranks(folder, "killed", by_launcher=True)
    assert done.returncode != 0
    assert (folder / "died").exists()
    assert not list(folder.glob("killed.rank*")), "a rank went on without the other"
    done = run_ranks(folder, "killed", by_launcher=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(load(folder, "killed")["drawn"]) == [2, 3], "the second attempt did not resume"
    assert_same(load(folder, "whole"), load(folder, "killed"))


@pytest.mark.acceptance
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ranks_end_with_their_launcher(tmp_path: Path, number: int) -> None:
    command = torchrun_command(2, [sys.executable, "-m", "tests.rank_program", str(tmp_path), "endless"])
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as launcher:
        wait_for(lambda: len(list(tmp_path.glob("epoch*"))) == 2)
        ranks = psutil.Process(launcher.pid).children(recursive=True)
        assert len(ranks) == 2
        os.kill(launcher.pid, number)
        wait_for(lambda: not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks))
    assert launcher.returncode != 0


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.2)
