"""A campaign of a thousand members is planned completely, and what is finished is not planned again."""

from pathlib import Path

import pytest
from benchmarks.graph import fabricate, finish, plan

N_EXPERIMENTS, N_FOLDS, N_SEEDS = 25, 8, 5
N_STAGES, N_SESSIONS = 4, 2  # train, sta, evaluate, insilico
# bytes on Linux: of one word of a command, and of all with their pointers (a quarter of a stack of 8 MiB). Snakemake
# writes a command above 64 KiB to a script of its own
WORD_LIMIT, ARGUMENTS_LIMIT = 128 * 1024, 2 * 2**20


@pytest.mark.slow
def test_a_thousand_members_are_planned_each_once(tmp_path: Path) -> None:
    fabricate(tmp_path / "campaign", N_EXPERIMENTS, N_FOLDS, N_SEEDS)
    planned, text = plan(tmp_path / "campaign", "from nothing", N_EXPERIMENTS * N_FOLDS * N_SEEDS, ["all", "-p"])
    assert planned.jobs == {
        "write_config": N_STAGES * N_EXPERIMENTS,
        "write_data_config": 1,
        "build_stimuli": 1,
        "build_recording": N_SESSIONS,
        "compute_sta": N_EXPERIMENTS * N_FOLDS * N_SESSIONS,
        "train_member": N_EXPERIMENTS * N_FOLDS * N_SEEDS,
        "predict_member": N_EXPERIMENTS * N_FOLDS * N_SEEDS,
        "score_experiment": N_EXPERIMENTS,
        "compute_receptive_fields": N_EXPERIMENTS,
        "draw_figures": N_EXPERIMENTS,
        "write_tables": 1,
        "write_report": 1,
        "all": 1,
    }
    commands = [line for line in text.splitlines() if "python workflow_scripts/" in line]
    assert len(commands) > 2 * N_EXPERIMENTS * N_FOLDS * N_SEEDS
    assert max(map(len, commands)) * 4 < WORD_LIMIT, "four times as many members do not fit a command line"


@pytest.mark.slow
def test_only_the_members_of_an_added_experiment_are_planned(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    fabricate(folder, 2, n_folds=2, n_seeds=1)
    finish(folder, ["results/variant_0/scores.csv"])
    jobs = plan(folder, "half finished", 2, ["scores"])[0].jobs
    assert jobs == {
        "write_config": 3,
        "compute_sta": 2 * N_SESSIONS,
        "train_member": 2,
        "predict_member": 2,
        "score_experiment": 1,
        "scores": 1,
    }


@pytest.mark.slow
def test_the_commands_of_a_thousand_sessions_fit(tmp_path: Path) -> None:
    sessions = [f"static{index:05}-10-18-GrayImageNet-94c6ff995dac583098847cfecd43e7b6" for index in range(1000)]
    fabricate(tmp_path / "campaign", 1, 1, 2, sessions)
    planned, text = plan(tmp_path / "campaign", "from nothing", 2, ["all", "-p"], len(sessions))
    assert planned.jobs["build_recording"] == planned.jobs["compute_sta"] == len(sessions)
    commands = [line.split() for line in text.splitlines() if "python workflow_scripts/" in line]
    assert max(len(word) for command in commands for word in command) < WORD_LIMIT
    assert max(sum(len(word) + 9 for word in command) for command in commands) < ARGUMENTS_LIMIT
    training = next(command for command in commands if "workflow_scripts/train.py" in command)
    first = training.index("--recordings") + 1
    paths = [f"results/data/simulated_retina/{name}.h5" for name in sessions]
    assert training[first : first + len(paths) + 2] == [*paths, "--stas", "results/variant_0"]
