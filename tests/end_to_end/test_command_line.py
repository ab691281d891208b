"""The documented way from data to scores on the command line, on small data."""

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from coread.cli.main import main
from coread.config import compose, stage_slice
from coread.data_io.sources import build_recordings
from coread.eval.predictions import read_predictions
from coread.models.member import load_member
from coread.recording import content_digest, write_recording
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import OVERRIDES

Train = Callable[..., None]
MEMBER = Path("results/hdf5_core_readout/fold0/seed0/model.ckpt")


@pytest.mark.slow
def test_create_train_evaluate_as_documented(data: Path, capfd: pytest.CaptureFixture) -> None:
    documented = ["--config-path", "configs", "--config-name", "hdf5_core_readout", "paths.data_dir=test_data"]
    documented += ["data_io.test_names=[random_noise_2, random_noise_3]", "data_io.color_channels=3"]
    documented += ["data_io.video_height=16", "data_io.video_width=8"]
    documented += ["exp_name=my_first_coread_run", *OVERRIDES, "trainer.max_epochs=2"]
    main(["train", *documented])
    folder = Path("results/my_first_coread_run")
    member = load_member(folder / "fold0/seed0/model.ckpt")
    assert len(member.history) == 2
    settings = stage_slice(compose("hdf5_core_readout", documented[5:]), "data")["data_io"]
    recordings = build_recordings(settings, Path("test_data"))
    assert member.recordings == {recording.session: content_digest(recording) for recording in recordings}
    assert pd.read_csv(folder / "fold0/seed0/history.csv")["val_correlation"].notna().all()
    assert (folder / "fold0/seed0/logs/csv/metrics.csv").exists()
    assert not (folder / "fold0/seed0/.work").exists()

    main(["evaluate", *documented])
    scores = pd.read_csv(folder / "scores.csv")
    rows = ["session", "neuron", "stimulus", "tier", "predictor", "metric"]
    assert {"experiment", "dataset", "value", "included", *rows} <= set(scores.columns)
    assert not scores.duplicated(rows).any()
    assert set(scores["stimulus"]) == {"random_noise_2", "random_noise_3", "validation"}
    assert set(scores["experiment"]) == {"my_first_coread_run"}
    of_ensemble = scores[(scores["metric"] == "correlation_to_average") & (scores["predictor"] == "ensemble")]
    assert len(of_ensemble) == 2 * sum(member.data_info["n_neurons_dict"].values())
    assert of_ensemble["value"].notna().all()
    assert "correlation_to_average" in capfd.readouterr().out


@pytest.mark.slow
def test_multirun_trains_one_member_per_seed(data: Path, train: Train) -> None:
    train("seed=0,1", "--multirun")
    zero, one = (load_member(MEMBER.parents[1] / f"seed{seed}" / "model.ckpt") for seed in (0, 1))
    assert (zero.seed, one.seed) == (0, 1)
    kernel = "core.features.layer0.conv.weight"
    weights = [dict(member.model.named_parameters()) for member in (zero, one)]
    name = next(name for name in weights[0] if name.startswith(kernel.rsplit(".", 1)[0]))
    assert not torch.equal(weights[0][name], weights[1][name])


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_kill(data: Path, train: Train, capfd: pytest.CaptureFixture) -> None:
    program = "import sys; from coread.cli.main import main; main(sys.argv[1:])"
    same = [*OVERRIDES, "trainer.max_epochs=10", "paths.data_dir=test_data", "paths.output_dir=results"]
    command = [sys.executable, "-c", program, "train", "--config-name", "hdf5_core_readout", *same]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    work = MEMBER.parent / ".work"
    for _ in range(1200):
        if list(work.glob("*/last.ckpt")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(work.glob("*/last.ckpt"))
    assert not MEMBER.exists()

    train(epochs=10)
    assert "resuming from" in capfd.readouterr().out
    resumed = load_member(MEMBER)
    assert not work.exists()
    train("paths.output_dir=uninterrupted", epochs=10)
    whole = load_member(Path("uninterrupted") / MEMBER.relative_to("results"))
    assert resumed.history["epoch"].tolist() == whole.history["epoch"].tolist()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.slow
def test_members_are_evaluated_on_the_data_of_their_training_and_with_their_likes(
    data: Path, train: Train, capfd: pytest.CaptureFixture
) -> None:
    def evaluate(*arguments: str) -> str:
        capfd.readouterr()
        main(["evaluate", "--config-name", "hdf5_core_readout", "paths.data_dir=test_data", *arguments])
        return capfd.readouterr().out

    train()
    assert "ensemble" in evaluate()
    scores = (MEMBER.parents[2] / "scores.csv").read_text()
    with pytest.raises(SystemExit):
        evaluate("data_io.test_names=[random_noise_1]")
    error = capfd.readouterr().err
    assert error.startswith("error: session 'session_0': the recording is not the one that fold0_seed0 was trained on")
    assert "give the same data settings (data_io)" in error
    train("seed=1", "splits.clip_length=40")
    with pytest.raises(SystemExit):
        evaluate()
    error = capfd.readouterr().err
    files = [MEMBER, MEMBER.parents[1] / "seed1" / MEMBER.name]
    assert error.startswith(
        f"error: {files[0]} and {files[1]} were trained with different settings: splits.clip_length"
    )
    assert (MEMBER.parents[2] / "scores.csv").read_text() == scores


@pytest.mark.slow
def test_the_workflow_predicts_for_the_recordings_of_the_training_only(
    data: Path, train: Train, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    train()
    recordings = build_recordings(stage_slice(compose("hdf5_core_readout"), "data")["data_io"], Path("test_data"))
    paths = [Path(f"{recording.session}.h5") for recording in recordings]
    for path, recording in zip(paths, recordings, strict=True):
        write_recording(recording, path)
    files = ["--model", str(MEMBER), "--recordings", *map(str, paths), "--memory-mb", "1000"]
    files += ["--output", "predictions.h5"]
    monkeypatch.setattr(sys, "argv", ["predict.py", "--experiment", "toy", *files])
    script = str(REPOSITORY / "workflow_scripts" / "predict.py")
    runpy.run_path(script, run_name="__main__")
    assert set(read_predictions(Path("predictions.h5")).sessions) == {"session_0", "session_1"}
    changed = replace(recordings[1], valid=np.zeros(recordings[1].n_bins, bool))
    write_recording(changed, paths[1])
    Path("predictions.h5").unlink()
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "session 'session_1': the recording is not the one that fold0_seed0 was trained on" in capfd.readouterr().err
    assert not Path("predictions.h5").exists()


def test_evaluating_before_training_says_so(data: Path, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--config-name", "hdf5_core_readout", "paths.data_dir=test_data"])
    assert stopped.value.code == 1
    expected = "error: results/hdf5_core_readout: no trained member (fold*/seed*/model.ckpt); run coread train first\n"
    assert capfd.readouterr().err == expected


def test_a_member_of_the_workflow_is_not_replaced(
    data: Path, train: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    member = Path("results/mine/fold0/seed0")
    member.mkdir(parents=True)
    (member / "model.sha256").write_text("of the workflow\n")
    with pytest.raises(SystemExit):
        train("exp_name=mine")
    assert "holds a member of the workflow: give another exp_name" in capsys.readouterr().err
    assert not (member / "model.ckpt").exists()
