"""Cells that share nothing: trained together as each would be alone, with early stopping of their own."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coread.data_io.sta import StaError, compute_sta, write_sta
from coread.models.causality import is_model_causal
from coread.models.initialization import compute_fold_sta
from coread.models.linear_nonlinear import SingleCellSeparatedLNP
from coread.models.member import Member, load_member
from coread.models.single_cell import clip_per_cell
from coread.models.spatial_contrast import SingleCellSpatialContrast
from coread.modules.losses.poisson import PoissonLoss3d
from coread.per_cell_stopping import EarlyStoppingPerCell
from coread.recording import Recording
from coread.training import train
from tests.conftest import REPOSITORY, fabricate_recording

LNP = {
    "_target_": "coread.models.linear_nonlinear.SingleCellSeparatedLNP",
    "learning_rate": 0.05,
    "spat_kernel_size": [5, 5],
    "temporal_kernel_size": 4,
    "nonlinearity": "softplus",
    "normalize_weights": False,
    "bias": True,
    "smooth_weight_spat": 0.01,
    "smooth_weight_temp": 0.01,
    "sparse_weight": 0.01,
}
CONTRAST = {
    "_target_": "coread.models.spatial_contrast.SingleCellSpatialContrast",
    "learning_rate": 0.05,
    "temporal_crop_frames": 4,
    "spat_crop_size": [5, 5],
    "w_init": 0.1,
}
PER_CELL = {"stop": {"_target_": "coread.per_cell_stopping.EarlyStoppingPerCell", "patience": 2, "min_delta": 0.002}}
TOGETHER = {
    "stop": {
        "_target_": "pytorch_lightning.callbacks.EarlyStopping",
        "monitor": "val_correlation",
        "mode": "max",
        "patience": 2,
        "min_delta": 0.002,
    }
}
SETTINGS: dict[str, Any] = {
    "splits": {"method": "folds", "n_folds": 3, "clip_length": 40, "seed": 0},
    "dataloader": {"window_length": 24, "batch_size": 4, "normalize_stimulus": True, "response_scale": "none"},
    "model": LNP,
    "loss": {"_target_": "coread.modules.losses.poisson.PoissonLoss3d"},
    "initialization": {"method": "sta", "n_lags": 4, "smoothing_px": 0.5, "spread": 0.2},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_decay": 0.01},
    "lr_scheduler": None,
    "trainer": {"max_epochs": 12, "gradient_clip_val": 0.05},
    "training_callbacks": PER_CELL,
    "quality_checks": {"allow_constant_neurons": False},
}


def recording(session: str = "a") -> Recording:
    return fabricate_recording(session, n_trials=4, trial_length=90)


def fit(folder: Path, recordings: list[Recording], settings: dict[str, Any] = SETTINGS, **kwargs: Any) -> Member:
    member = train(settings, recordings, 0, 0, work_dir=folder / "work", accelerator="cpu", **kwargs)
    shutil.rmtree(folder / "work")
    return member


def only(whole: Recording, cell: int) -> Recording:
    """Return a recording of one of its cells."""
    return replace(
        whole, responses=whole.responses[:, [cell]], neurons=whole.neurons.iloc[[cell]].reset_index(drop=True)
    )


def given(averages: np.ndarray, path: Path) -> dict[str, Path]:
    write_sta(averages, path, session="a", fold=0)
    return {"a": path}


@pytest.mark.parametrize("model", [LNP, CONTRAST], ids=["lnp", "contrast"])
@pytest.mark.parametrize("alone", [PER_CELL, TOGETHER], ids=["stopped per cell", "stopped as usual"])
def test_cells_trained_together_are_the_cells_trained_apart(tmp_path: Path, model: dict, alone: dict) -> None:
    settings = SETTINGS | {"model": model}
    # averages of four cells are summed in another order than those of one, and a fit of filters magnifies the rounding:
    # all start from the same ones
    averages = compute_fold_sta(settings, recording(), 0)
    whole = fit(tmp_path, [recording()], settings, stas=given(averages, tmp_path / "a.h5"))
    cells = whole.data_info["cells"]["a"]
    apart = [
        fit(
            tmp_path,
            [only(recording(), cell)],
            settings | {"training_callbacks": alone},
            stas=given(averages[[cell]], tmp_path / f"{cell}.h5"),
        )
        for cell in range(4)
    ]
    for cell, single in enumerate(apart):
        for name, value in single.model.readout["a"].state_dict().items():
            if value.dim():
                torch.testing.assert_close(
                    whole.model.readout["a"].state_dict()[name][cell], value[0], rtol=1e-5, atol=1e-7
                )
        assert len(single.history) == (12 if cells["stopped_epoch"][cell] < 0 else cells["stopped_epoch"][cell] + 1)
        assert int(single.history["val_correlation"].argmax()) == cells["best_epoch"][cell]
    assert len(set(cells["stopped_epoch"])) > 1, "the test needs cells that stop at different times"
    lasting = [12 if epoch < 0 else epoch + 1 for epoch in cells["stopped_epoch"]]
    assert len(whole.history) == max(lasting)


def test_sessions_do_not_change_each_others_start(tmp_path: Path) -> None:
    settings = SETTINGS | {"initialization": {"method": "none"}, "trainer": {"max_epochs": 1}}
    torch.manual_seed(3)
    pair = SingleCellSeparatedLNP((1, 4, 9, 9), (4, 4), (5, 5), n_neurons_dict={"a": 2, "b": 3})
    torch.manual_seed(3)
    single = SingleCellSeparatedLNP((1, 4, 9, 9), (4, 4), (5, 5), n_neurons_dict={"b": 1})
    for cell in range(3):
        assert torch.equal(pair.readout["b"].space_weights[cell], single.readout["b"].space_weights[0])
    assert fit(tmp_path, [recording("a"), recording("b")], settings).data_info["cells"].keys() == {"a", "b"}


KILLED = """
    import os, signal, sys
    import coread.callbacks as callbacks
    import coread.training as training
    from pathlib import Path
    from tests.models.test_single_cell import SETTINGS, recording

    class Killer(callbacks.Callback):
        def on_validation_start(self, trainer, *_):
            if trainer.current_epoch == int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)

    plain = training._trainer
    training._trainer = lambda s, c, *rest: plain(s, [Killer(), *c], *rest)
    training.train(SETTINGS, [recording()], 0, 0, work_dir=Path(sys.argv[2]), accelerator="cpu")
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", [recording()])
    stopped = sorted(epoch for epoch in whole.data_info["cells"]["a"]["stopped_epoch"] if epoch >= 0)
    assert stopped[0] + 1 < len(whole.history)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(stopped[0] + 1), str(tmp_path / "killed/work")]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    resumed = fit(tmp_path / "killed", [recording()])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.data_info["cells"] == whole.data_info["cells"]


@pytest.mark.parametrize("model", [LNP, CONTRAST], ids=["lnp", "contrast"])
def test_a_member_is_saved_with_its_cells(tmp_path: Path, model: dict) -> None:
    member = fit(tmp_path, [recording()], SETTINGS | {"model": model, "trainer": {"max_epochs": 2}})
    member.save(tmp_path / "model.ckpt")
    back = load_member(tmp_path / "model.ckpt")
    x = torch.randn(back.model.stimulus_shape(10))
    torch.testing.assert_close(back.model(x, "a"), member.model(x, "a"), rtol=0, atol=0)
    assert back.data_info["cells"] == member.data_info["cells"]
    assert back.data_info["neurons_without_sta"] == {"a": []}
    assert is_model_causal(back.model)


def test_stopping_counts_every_cell_for_itself() -> None:
    stop = EarlyStoppingPerCell(patience=2, min_delta=0.1)
    scores = [[0.0, 0.5, -1.0], [0.05, 0.4, -1.0], [0.2, 0.3, -1.0], [0.2, 0.9, -1.0], [0.25, 0.9, 0.5]]
    for epoch, row in enumerate(scores):
        stop._judge("a", torch.tensor(row), epoch)
    cells = stop.outcome()["cells"]["a"]
    assert cells["stopped_epoch"] == [4, 2, 2]
    assert cells["best_epoch"] == [4, 0, 0]
    np.testing.assert_allclose(cells["best_score"], [0.25, 0.5, -1.0])


def test_gradients_are_clipped_cell_by_cell() -> None:
    first, second = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))
    first.grad, second.grad = torch.tensor([[3.0, 0.0], [0.1, 0.0]]), torch.tensor([4.0, 0.2])
    clip_per_cell(iter([first, second]), 1.0)
    torch.testing.assert_close(first.grad, torch.tensor([[0.6, 0.0], [0.1, 0.0]]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.grad, torch.tensor([0.8, 0.2]), rtol=1e-5, atol=1e-6)


def test_what_would_tie_cells_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a loss that is a mean over neurons"):
        SingleCellSeparatedLNP((1, 4, 9, 9), (4, 4), (5, 5), loss=PoissonLoss3d(avg=False))
    plateau = {"_target_": "coread.lr_schedules.reduce_lr_on_plateau", "_partial_": True}
    with pytest.raises(ValueError, match="follows the mean score"):
        fit(tmp_path, [recording()], SETTINGS | {"lr_scheduler": plateau})
    core = {
        "_target_": "coread.models.core_readout.UnifiedCoreReadout",
        "core": {"_target_": "coread.modules.core.base_core.DummyCore"},
        "readout": {"_target_": "coread.modules.readout.multi_readout.MultiLNPReadout", "temporal_kernel_size": 3},
    }
    with pytest.raises(ValueError, match="which UnifiedCoreReadout is not"):
        fit(tmp_path, [recording()], SETTINGS | {"model": core})
    with pytest.raises(ValueError, match="takes its filters from the training bins: set initialization: sta"):
        fit(tmp_path, [recording()], SETTINGS | {"model": CONTRAST, "initialization": {"method": "none"}})


# ------------------------------------------------------------------------------------------------------------ averages


@pytest.mark.parametrize("model", [LNP, CONTRAST], ids=["lnp", "contrast"])
def test_a_member_from_given_averages_is_the_member_that_computes_them(tmp_path: Path, model: dict) -> None:
    settings = SETTINGS | {"model": model, "trainer": {"max_epochs": 1}}
    files = {}
    for name in ("a", "b"):
        sta = compute_fold_sta({key: settings[key] for key in STA_SLICE}, recording(name), 0)
        files[name] = tmp_path / f"{name}.h5"
        write_sta(sta, files[name], session=name, fold=0)
    own = fit(tmp_path, [recording("a"), recording("b")], settings)
    given = fit(tmp_path, [recording("a"), recording("b")], settings, stas=files)
    for name, value in own.model.state_dict().items():
        assert torch.equal(value, given.model.state_dict()[name]), name
    with pytest.raises(StaError, match=r"b.h5: expected session, fold and shape \('a', 0"):
        fit(tmp_path, [recording("a")], settings, stas={"a": files["b"]})


STA_SLICE = ("splits", "dataloader", "model", "initialization")


def test_averages_know_nothing_of_validation_and_test_responses() -> None:
    from coread.data_io.splits import TRAIN, label_bins

    original = recording()
    label = label_bins(original, SETTINGS["splits"], 0, 3)
    responses = original.responses.copy()
    responses[label != TRAIN] = np.random.default_rng(9).random(responses[label != TRAIN].shape) * 50
    assert (responses != original.responses).any()
    altered = replace(original, responses=responses)
    np.testing.assert_array_equal(compute_fold_sta(SETTINGS, altered, 0), compute_fold_sta(SETTINGS, original, 0))
    other_fold = compute_fold_sta(SETTINGS, original, 1)
    assert not np.array_equal(other_fold, compute_fold_sta(SETTINGS, original, 0))
    np.testing.assert_array_equal(
        other_fold, compute_sta(original, label_bins(original, SETTINGS["splits"], 1, 3) == TRAIN, 3)
    )


# ------------------------------------------------------------------------------------------------ the published models


def test_the_published_single_cell_lnp(tmp_path: Path) -> None:
    model = SingleCellSeparatedLNP(
        in_shape=(2, 6, 20, 24), rf_location=(3, 12), spat_kernel_size=(7, 5), rank=2, nonlinearity="exp"
    )
    x = torch.randn(2, 2, 10, 20, 24)
    y = model(x)
    assert y.shape == (2, 5, 1)
    torch.testing.assert_close(model(model.crop_input(x)), y)
    torch.testing.assert_close(model.crop_input(x), x[..., 0:7, 10:15])
    space, time = torch.randn(2, 2, 1, 7, 5), torch.randn(1, 2, 6, 1, 1)
    model.load_state_dict({"space_conv.weight": space, "time_conv.weight": time})
    unit = [weight / weight.norm() for weight in (space, time)]
    expected = F.conv3d(F.conv3d(x[..., 0:7, 10:15], unit[0]), unit[1]).exp()[:, 0, :, 0, 0]
    torch.testing.assert_close(model(x)[..., 0], expected, rtol=1e-4, atol=1e-5)
    assert model.regularizer("cell") == 0
    with pytest.raises(ValueError, match="larger than the frame"):
        SingleCellSeparatedLNP(in_shape=(2, 6, 10, 10))
    with pytest.raises(ValueError, match="smooth_regularizer_spat 'Laplac'"):
        SingleCellSeparatedLNP(in_shape=(2, 6, 20, 24), smooth_regularizer_spat="Laplac")


def test_penalties_of_single_cells_are_the_published_ones() -> None:
    from coread.modules.layers.regularizers import LaplaceL2norm, TimeLaplaceL23dnorm

    model = SingleCellSeparatedLNP((2, 6, 20, 24), rank=2, normalize_weights=False, smooth_weight_spat=2.0,
                                   smooth_weight_temp=3.0, sparse_weight=4.0)  # fmt: skip
    space, time = model.readout["cell"].space_weights[0], model.readout["cell"].time_weights[0]
    expected = {
        "smooth_spat": 2 * LaplaceL2norm()(space),
        "smooth_temp": 3 * TimeLaplaceL23dnorm()(time[None, :, :, None, None]),
        "sparse": 4 * (space.abs().mean() + time.abs().mean()),
    }
    penalties = model.readout.penalties()
    assert penalties.keys() == expected.keys()
    for name, value in penalties.items():
        torch.testing.assert_close(value, expected[name])


def test_the_published_single_cell_contrast_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :30]
    blob = np.exp(-(((y - 9.0) / 2) ** 2 + ((x - 17.0) / 1.5) ** 2) / 2)
    sta = -np.sin(np.arange(40) / 6)[:, None, None] * blob + 0.001 * rng.standard_normal((40, 24, 30))
    np.save(tmp_path / "cell.npy", sta)
    kwargs: dict[str, Any] = {"sta_dir": tmp_path, "sta_file_name": "cell.npy", "temporal_crop_frames": 12}
    model = SingleCellSpatialContrast((1, 100, 20, 26), **kwargs, spat_crop_size=(15, 15), w_init=0.5)
    readout = model.readout["cell"]
    # the average is cut to the frame's size around the centre: two pixels from each side
    center = np.unravel_index(int(readout.spatial_filters[0].argmax()), (20, 26))
    assert center == (7, 15)
    stimulus = torch.randn(1, 1, 30, 20, 26)
    assert model(stimulus).shape == (1, 19, 1)
    flipped = SingleCellSpatialContrast((1, 100, 20, 26), **kwargs, flip_sta=True, w_init=0.5)
    torch.testing.assert_close(
        flipped(stimulus.flip(-1)), SingleCellSpatialContrast((1, 100, 20, 26), **kwargs, w_init=0.5)(stimulus)
    )
    with torch.no_grad():
        readout.w.fill_(-1.0)
    before = model(stimulus)
    with torch.no_grad():
        readout.w.fill_(0.0)
    torch.testing.assert_close(model(stimulus), before)  # a negative weight of the contrast counts as zero
    with pytest.raises(ValueError, match="one channel"):
        SingleCellSpatialContrast((2, 100, 20, 26), temporal_crop_frames=5)
    with pytest.raises(StaError, match=r"absent.npy: not a readable array"):
        SingleCellSpatialContrast((1, 100, 20, 26), sta_dir=tmp_path, sta_file_name="absent.npy")
