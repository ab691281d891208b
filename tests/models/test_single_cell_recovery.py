"""On simulated cells with known filters: linear-nonlinear models find them, and subunits need the spatial contrast."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from coread.models.member import Member
from coread.recording import Recording, Stimulus
from coread.training import train

HEIGHT, WIDTH, LAG, N_BINS = 14, 16, 6, 4800
CENTERS = np.array([[5, 5], [8, 10], [6, 9], [7, 6]])  # the last two cells have subunits
KINETICS = np.array([0.0, 0.25, 0.7, 1.0, 0.3, -0.6, -0.5])  # the current frame first
SETTINGS: dict[str, Any] = {
    "splits": {"method": "folds", "n_folds": 4, "clip_length": 100, "seed": 0},
    "dataloader": {"window_length": 106, "batch_size": 8, "normalize_stimulus": True, "response_scale": "none"},
    "loss": {"_target_": "coread.modules.losses.poisson.PoissonLoss3d"},
    "initialization": {"method": "sta", "n_lags": LAG + 1, "smoothing_px": 0.7, "spread": 0.2},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_decay": 0.01},
    "lr_scheduler": None,
    "trainer": {"max_epochs": 12, "gradient_clip_val": 1.0},
    "training_callbacks": {"stop": {"_target_": "coread.per_cell_stopping.EarlyStoppingPerCell", "patience": 6}},
    "quality_checks": {"allow_constant_neurons": False},
}
SINGLE_LNP = {
    "_target_": "coread.models.linear_nonlinear.SingleCellSeparatedLNP",
    "learning_rate": 0.02,
    "spat_kernel_size": [9, 9],
    "temporal_kernel_size": LAG + 1,
    "nonlinearity": "softplus",
    "normalize_weights": False,
    "bias": True,
    "smooth_weight_spat": 0.005,
    "smooth_weight_temp": 0.005,
}
POPULATION_LNP = {
    "_target_": "coread.models.core_readout.UnifiedCoreReadout",
    "learning_rate": 0.02,
    "core": {"_target_": "coread.modules.core.base_core.DummyCore"},
    "readout": {
        "_target_": "coread.modules.readout.multi_readout.MultiLNPReadout",
        "temporal_kernel_size": LAG + 1,
        "smooth_weight": 0.005,
        "temporal_smooth_weight": 0.005,
    },
}
CONTRAST = {
    "_target_": "coread.models.spatial_contrast.SingleCellSpatialContrast",
    "learning_rate": 0.1,
    "temporal_crop_frames": LAG + 1,
    "spat_crop_size": [9, 9],
    "a_init": 2.0,
    "c_init": -1.0,
}


def true_filters() -> np.ndarray:
    """Return the spatial filter of every cell times the common time course (neuron, lag, height, width)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    squared = (y - CENTERS[:, 0, None, None]) ** 2 + (x - CENTERS[:, 1, None, None]) ** 2
    spatial = np.exp(-squared / (2 * 1.5**2))
    spatial /= spatial.sum(axis=(1, 2), keepdims=True)
    return spatial[:, None] * (KINETICS / np.linalg.norm(KINETICS))[None, :, None, None]


@pytest.fixture(scope="module")
def cells() -> Recording:
    rng = np.random.default_rng(0)
    contrast = np.repeat(np.exp(0.5 * rng.standard_normal(N_BINS // 12)), 12)  # as when gaze moves over textures
    frames = (contrast[:, None, None] * rng.standard_normal((N_BINS, HEIGHT, WIDTH))).astype(np.float32)
    time = (KINETICS / np.linalg.norm(KINETICS))[::-1]
    past = np.concatenate([np.zeros((LAG, HEIGHT, WIDTH)), frames])
    filtered = sum(weight * past[i : i + N_BINS] for i, weight in enumerate(time))
    spatial = true_filters()[:, 3] / true_filters()[:, 3].sum(axis=(1, 2), keepdims=True)
    linear = np.einsum("thw,nhw->tn", filtered, spatial[:2])
    subunits = np.einsum("thw,nhw->tn", np.maximum(filtered, 0), spatial[2:])
    rate = np.concatenate([np.log1p(np.exp(6 * linear - 0.5)), np.log1p(np.exp(5 * subunits - 2.0))], axis=1)
    return Recording(
        dataset="planted",
        session="a",
        stimuli={"movie": Stimulus(frames[:, None], 30.0)},
        trials=pd.DataFrame(
            {"stimulus": ["movie"], "tier": ["train"], "repeat": [0], "time_order": [0], "withheld": [False]}
        ),
        trial=np.zeros(N_BINS, np.int32),
        frame=np.arange(N_BINS, dtype=np.int32),
        responses=rng.poisson(rate).astype(np.float32),
        valid=np.ones(N_BINS, bool),
        rate_hz=30.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": np.arange(4)}),
    )


def fit(folder: Path, recording: Recording, model: dict[str, Any], **changes: Any) -> Member:
    settings = SETTINGS | {"model": model} | changes
    member = train(settings, [recording], 0, 0, work_dir=folder / "work", accelerator="cpu")
    shutil.rmtree(folder / "work")
    return member


def test_single_cell_and_population_models_recover_the_filters(tmp_path: Path, cells: Recording) -> None:
    truth = torch.as_tensor(true_filters(), dtype=torch.float32)
    single: Any = fit(tmp_path, cells, SINGLE_LNP).model.readout["a"]
    patches = truth.flatten(2).gather(2, single.patches()[:, None].expand(-1, LAG + 1, -1))
    population: Any = fit(tmp_path, cells, POPULATION_LNP, training_callbacks={}).model.readout["a"]
    for found, expected in ((single.filters, patches), (population.filters, truth)):
        cosine = F.cosine_similarity(found.flatten(1), expected.flatten(1))[:2]
        assert (cosine > 0.9).all(), cosine


def test_subunits_need_the_spatial_contrast_and_linear_cells_do_not(tmp_path: Path, cells: Recording) -> None:
    contrast = fit(tmp_path, cells, CONTRAST)
    linear = fit(tmp_path, cells, SINGLE_LNP)
    scores = [np.array(member.data_info["cells"]["a"]["best_score"]) for member in (contrast, linear)]
    gain = scores[0] - scores[1]
    assert (gain[2:] > 0.05).all(), scores
    assert (gain[:2] > -0.05).all(), scores
    weight = contrast.model.readout["a"].w.detach()
    assert weight[2:].min() > 2 * weight[:2].max(), weight
