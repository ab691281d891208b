from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from coread.data_io.statistics import Statistics
from coread.insilico import visualize_receptive_fields
from coread.insilico.gaussian_fit import fit_gaussians
from coread.insilico.receptive_fields import (
    compute_receptive_fields,
    cosine,
    own_gradients,
    read_receptive_fields,
    response_gradient,
    write_receptive_fields,
)
from coread.insilico.separable import biphasic_index, latency_s, separate
from coread.recording import Recording, Stimulus, read_recordings, write_recording

LAG, HEIGHT, WIDTH = 9, 14, 18
CENTERS = np.array([[4.0, 5.0], [8.5, 11.2], [6.3, 8.8], [9.0, 6.0]])
SIGMAS = np.array([[2.0, 1.2], [1.5, 1.5], [2.4, 1.6], [1.8, 1.1]])
ANGLES = np.array([0.4, 0.0, 2.0, 1.2])
POLARITY = np.array([1, -1, -1, 1])
CONFIG = {"reference": "mean", "n_samples": 64, "noise_std": 1.0, "seed": 0, "smoothing_px": 1.0, "contour_sigma": 1.5}


def gaussian_images(centers: np.ndarray, sigmas: np.ndarray, angles: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    dy, dx = y - centers[:, :1, None], x - centers[:, 1:, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    along, across = cos * dx + sin * dy, -sin * dx + cos * dy
    return np.exp(-0.5 * ((along / sigmas[:, :1, None]) ** 2 + (across / sigmas[:, 1:, None]) ** 2))


def true_filters() -> np.ndarray:
    lags = np.arange(LAG + 1)
    course = np.exp(-0.5 * ((lags - 2) / 1.0) ** 2) - 0.4 * np.exp(-0.5 * ((lags - 5) / 1.5) ** 2)
    spatial = gaussian_images(CENTERS, SIGMAS, ANGLES) * POLARITY[:, None, None]
    return (course[None, :, None, None, None] * spatial[:, None, None]).astype(np.float32)


class LinearNonlinear(nn.Module):
    """Exact LN neurons; with `squared`, ON-OFF neurons whose gradient at a grey screen is empty."""

    def __init__(self, filters: np.ndarray, *, squared: bool = False) -> None:
        super().__init__()
        self.lag = filters.shape[1] - 1
        self.conv = nn.Conv3d(1, len(filters), (self.lag + 1, HEIGHT, WIDTH), bias=False)
        self.conv.weight.data = torch.as_tensor(filters).flip(1).movedim(1, 2).contiguous()
        self.dropout, self.squared = nn.Dropout(0.5), squared
        self.readout = {"a": None}
        self.data_info = {"n_neurons_dict": {"a": len(filters)}}

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        drive = self.conv(self.dropout(x))[..., 0, 0].movedim(1, 2)
        return drive.square() if self.squared else nn.functional.softplus(drive)

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, ...]:
        return num_batches, 1, time_steps, HEIGHT, WIDTH


class Keys(dict):
    """A readout that knows its sessions."""

    def readout_keys(self) -> list[str]:
        return sorted(self)


@dataclass
class ToyMember:
    """What compute_receptive_fields reads of a member."""

    model: nn.Module
    statistics: Statistics = field(
        default_factory=lambda: Statistics(100.0, 20.0, {"a": torch.tensor([1.0, 2.0, 3.0, 4.0])}, {})
    )


def make_recording(**session_info: Any) -> Recording:
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 140, (200, 1, HEIGHT, WIDTH)).astype(np.uint8)
    trials = pd.DataFrame(
        {"stimulus": ["noise"], "tier": ["train"], "repeat": [0], "time_order": [0], "withheld": [False]}
    )
    return Recording(
        dataset="toy",
        session="a",
        stimuli={"noise": Stimulus(frames, 50.0, pixel_um=30.0)},
        trials=trials,
        trial=np.zeros(200, np.int32),
        frame=np.arange(200, dtype=np.int32),
        responses=np.zeros((200, 4), np.float32),
        valid=np.ones(200, bool),
        rate_hz=50.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": ["w", "x", "y", "z"], "cell_type": ["on", "off", "off", "on"]}),
        session_info=session_info,
    )


def test_gradients_of_an_ln_model_are_its_filters_in_physical_units() -> None:
    recording = make_recording(truth_filter=true_filters(), truth_center_px=CENTERS)
    model = LinearNonlinear(true_filters()).train()
    fields = compute_receptive_fields([ToyMember(model)], [recording], CONFIG, batch_size=3)["a"]  # type: ignore[list-item]
    # slope of softplus at 0 is 1/2; response scale 1..4, stimulus std 20
    expected = true_filters() * (0.5 * np.arange(1, 5) / 20)[:, None, None, None, None]
    np.testing.assert_allclose(fields.filter, expected, atol=1e-6)
    table = fields.table
    assert (table["truth_cosine"] > 0.9999).all()
    assert (table["truth_distance_px"] < 0.05).all()
    assert table["polarity"].tolist() == POLARITY.tolist()
    np.testing.assert_allclose(table[["center_y_px", "center_x_px"]], CENTERS, atol=0.05)
    np.testing.assert_allclose(table[["sigma_major_px", "sigma_minor_px"]], SIGMAS, atol=0.05)
    np.testing.assert_allclose(table["diameter_um"], 90 * np.sqrt(SIGMAS.prod(axis=1)), rtol=0.05)
    np.testing.assert_allclose(table["latency_s"], 2 / 50.0, atol=0.004)
    assert (table["separable_share"] > 0.9999).all()
    assert (fields.spatial.reshape(4, -1).max(axis=1) > 0.1).all(), "centres are positive for ON and OFF cells"
    assert model.training, "the mode is left as found"


@pytest.mark.parametrize("reference", ["noise", "recorded"])
def test_rectified_units_have_no_gradient_at_grey_but_one_away_from_it(reference: str, tmp_path: Path) -> None:
    model = LinearNonlinear(true_filters(), squared=True)
    at_grey = compute_receptive_fields([ToyMember(model)], [make_recording()], CONFIG)["a"]  # type: ignore[list-item]
    assert (at_grey.filter == 0).all()
    assert (at_grey.table["polarity"] == 0).all()
    config = CONFIG | {"reference": reference, "n_samples": 5}
    away = compute_receptive_fields([ToyMember(model)], [make_recording()], config)["a"]  # type: ignore[list-item]
    assert (np.abs(cosine(away.filter, true_filters())) > 0.999).all()
    again = compute_receptive_fields([ToyMember(model)], [make_recording()], config, batch_size=7)["a"]  # type: ignore[list-item]
    np.testing.assert_allclose(again.filter, away.filter, rtol=1e-4, atol=1e-7)
    write_recording(make_recording(), tmp_path / "a.h5")
    lazy = read_recordings([tmp_path / "a.h5"], memory_budget_bytes=0)
    on_disk = compute_receptive_fields([ToyMember(model)], lazy, config)["a"]  # type: ignore[list-item]
    np.testing.assert_array_equal(on_disk.filter, away.filter)


def test_the_ensemble_is_the_mean_and_disagreement_lowers_the_consistency() -> None:
    members = [ToyMember(LinearNonlinear(true_filters())), ToyMember(LinearNonlinear(true_filters()[[0, 1, 3, 2]]))]
    fields = compute_receptive_fields(members, [make_recording()], CONFIG)["a"]  # type: ignore[arg-type]
    slope = (0.5 * np.arange(1, 5) / 20)[:, None, None, None, None]
    np.testing.assert_allclose(fields.filter, 0.5 * (true_filters() + true_filters()[[0, 1, 3, 2]]) * slope, atol=1e-6)
    consistency = fields.table["member_consistency"]
    np.testing.assert_allclose(consistency[:2], 1.0, atol=1e-6)
    assert (consistency[2:] < 0.9).all()
    np.testing.assert_allclose(fields.table["center_y_px_sd_members"][:2], 0.0, atol=1e-3)
    spread = np.abs(CENTERS[2] - CENTERS[3]) / np.sqrt(2)
    for name, expected in zip(("center_y_px_sd_members", "center_x_px_sd_members"), spread, strict=True):
        np.testing.assert_allclose(fields.table[name][2:], expected, atol=0.05)
    alone = compute_receptive_fields(members[:1], [make_recording()], CONFIG)["a"]  # type: ignore[arg-type]
    assert alone.table["center_y_px_sd_members"].isna().all()


def test_fields_are_described_by_functions_with_errors() -> None:
    fields = compute_receptive_fields([ToyMember(LinearNonlinear(true_filters()))], [make_recording()], CONFIG)["a"]  # type: ignore[list-item]
    table = fields.table
    assert (table["best_fit"] != "none").all()
    np.testing.assert_allclose(table["sigma_px"], np.sqrt(SIGMAS.prod(axis=1)), rtol=0.02)
    for name in ("center_y_se_px", "center_x_se_px", "sigma_se_px"):
        assert (table[name] < 1e-3).all(), "noise-free Gaussians leave no doubt"
    assert (table["dog_r2"] >= table["gaussian_r2"] - 1e-3).all()


def test_gradients_of_some_neurons_are_those_of_all() -> None:
    model, references = LinearNonlinear(true_filters(), squared=True), torch.randn(3, 1, LAG + 1, HEIGHT, WIDTH)
    total = torch.zeros(2, 1, LAG + 1, HEIGHT, WIDTH)
    for place, gradient in own_gradients(model, "a", references, np.array([3, 1]), batch_size=4):
        total.index_add_(0, place, gradient)
    every = response_gradient(model, "a", references, 4)
    torch.testing.assert_close((total / 3).flip(2).movedim(1, 2), every[[3, 1]])


def test_unknown_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="reference 'grey' is unknown"):
        compute_receptive_fields([], [], CONFIG | {"reference": "grey"})


def test_fields_survive_the_files(tmp_path: Path) -> None:
    member = ToyMember(LinearNonlinear(true_filters()))
    fields = compute_receptive_fields([member], [make_recording()], CONFIG)  # type: ignore[list-item]
    write_receptive_fields(fields, tmp_path / "rf.h5", tmp_path / "rf.csv")
    back = read_receptive_fields(tmp_path / "rf.h5")["a"]
    np.testing.assert_array_equal(back.filter, fields["a"].filter)
    np.testing.assert_array_equal(back.temporal, fields["a"].temporal)
    assert (back.bin_s, back.pixel_um) == (0.02, 30.0)
    pd.testing.assert_frame_equal(back.table, fields["a"].table, check_dtype=False)
    assert pd.read_csv(tmp_path / "rf.csv")["unit_id"].tolist() == ["w", "x", "y", "z"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rf.csv", "rf.h5"]
    (tmp_path / "rf.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"rf\.h5: not a readable file of receptive fields"):
        read_receptive_fields(tmp_path / "rf.h5")


def test_separable_share_falls_with_an_inseparable_part() -> None:
    filters = true_filters()
    moved = filters.copy()
    moved[:, 4:] = np.roll(moved[:, 4:], 4, axis=-1)
    assert (separate(moved, 1.0).explained < separate(filters, 1.0).explained - 0.01).all()
    parts = separate(filters, 1.0)
    rebuilt = np.einsum("ncl,nchw->nlchw", parts.temporal, parts.spatial)
    np.testing.assert_allclose(rebuilt, filters, atol=1e-5)


def test_time_course_measures() -> None:
    course = np.array([[0, 1, 4, 1, -2, 0], [0, -1, -4, -3, 0, 0], [0, 0, 0, 0, 0, 0]], float)
    np.testing.assert_allclose(biphasic_index(course), [0.5, 0.0, 0.0])
    np.testing.assert_allclose(latency_s(course, 0.01)[:2], [0.02, 0.0225], atol=1e-9)


def test_gaussian_fit_recovers_noisy_parameters_and_reports_failure() -> None:
    rng = np.random.default_rng(2)
    images = gaussian_images(CENTERS, SIGMAS, ANGLES)
    peak = np.rint(CENTERS)
    fit = fit_gaussians(images + 0.05 * rng.standard_normal(images.shape), peak)
    assert fit.converged.all()
    np.testing.assert_allclose(fit.center_px, CENTERS, atol=0.15)
    np.testing.assert_allclose(fit.sigma_px, SIGMAS, atol=0.2)
    elongated = [0, 2, 3]
    difference = np.abs(fit.angle_rad - ANGLES)[elongated]
    assert (np.minimum(difference, np.pi - difference) < 0.15).all()
    assert (fit.r2 > 0.8).all()
    failed = fit_gaussians(np.zeros((2, HEIGHT, WIDTH)), peak[:2])
    assert not failed.converged.any()
    np.testing.assert_array_equal(failed.center_px, peak[:2])


def test_visualized_fields_are_signed_images_of_the_asked_size() -> None:
    model = LinearNonlinear(true_filters())
    model.readout = Keys(a=None)
    images = visualize_receptive_fields(model, resolution=(28, 36))  # type: ignore[arg-type]
    assert images.shape == (4, 28, 36)
    peak = np.abs(images).reshape(4, -1).argmax(axis=1)
    assert np.sign(images.reshape(4, -1)[np.arange(4), peak]).tolist() == POLARITY.tolist()
    assert visualize_receptive_fields(model).shape == (4, HEIGHT, WIDTH)  # type: ignore[arg-type]
