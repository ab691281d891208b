"""Readouts start on the pixel where the spike-triggered average peaks, whatever the core does to the image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from coread.data_io.splits import TRAIN
from coread.data_io.statistics import compute_statistics
from coread.models.core_readout import BaseCoreReadout, core_output_shape
from coread.models.initialization import initialize_readouts, output_positions, peak_positions
from coread.models.member import load_member
from coread.models.spatial_contrast import SpatialContrastCoreReadout
from coread.modules.core.base_core import DummyCore, SimpleCoreWrapper
from coread.modules.readout.multi_readout import MultiGaussianMaskReadout, MultiSampledGaussianReadout
from coread.recording import Recording
from coread.training import train
from tests.conftest import fabricate_recording

SETTINGS = {"method": "sta", "n_lags": 3, "smoothing_px": 0.5, "spread": 0.15}
CORES = {
    "odd, valid": {"spatial_kernel_sizes": [5, 3]},
    "even, valid": {"spatial_kernel_sizes": [4, 3]},
    "even, same": {"spatial_kernel_sizes": [4, 6], "input_padding": True},
    "even, padded": {"spatial_kernel_sizes": [4, 2], "input_padding": 1, "hidden_padding": 2},
    "separable": {"spatial_kernel_sizes": [4, 3], "convolution_type": "separable", "input_padding": "same"},
    "max pooling": {"spatial_kernel_sizes": [3, 3], "maxpool_every_n_layers": 2},
    "max pooling twice": {"spatial_kernel_sizes": [3, 4], "maxpool_every_n_layers": 1},
    "downsampled": {"spatial_kernel_sizes": [3, 3], "downsample_input_kernel_size": [1, 2, 3]},
    "downsampled and pooled": {
        "spatial_kernel_sizes": [2, 2],
        "downsample_input_kernel_size": [1, 2, 2],
        "maxpool_every_n_layers": 3,
    },
}


def uniform_model(core_arguments: dict, image_size: tuple[int, int], n_neurons: int) -> BaseCoreReadout:
    """Return a model whose gradient is symmetric around what a readout looks at: all weights are equal."""
    arguments = {"channels": (1, 2, 2), "temporal_kernel_sizes": (1, 1), "convolution_type": "full", **core_arguments}
    core = SimpleCoreWrapper(**arguments)
    in_shape = (1, 1, *image_size)
    readout = MultiSampledGaussianReadout(core_output_shape(core, in_shape), {"a": n_neurons})
    model = BaseCoreReadout(core, readout, data_info={"input_shape": (1, *image_size)}).eval()
    for name, parameter in model.core.named_parameters():
        if "conv" in name:
            nn.init.constant_(parameter, 0.1)
    for layer in model.core.features:
        if hasattr(layer, "pool"):
            layer.pool = nn.AvgPool3d((1, 2, 2))  # the same places, but a gradient to every pixel of a place
    return model


@pytest.mark.parametrize("image_size", [(40, 46), (41, 45)])
@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_a_readout_looks_at_the_pixel_it_was_put_on(core: dict, image_size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pixels = np.column_stack([rng.uniform(14, size - 15, 5) for size in image_size])  # far from what borders distort
    model = uniform_model(core, image_size, len(pixels))
    positions = output_positions(pixels, model)
    model.readout["a"].initialize_positions(torch.as_tensor(positions, dtype=torch.float32))
    stimulus = torch.full((1, 1, 1, *image_size), 0.1, requires_grad=True)
    predicted = model(stimulus, "a")[0, 0]
    y, x = np.mgrid[: image_size[0], : image_size[1]]
    for neuron, pixel in enumerate(pixels):
        (gradient,) = torch.autograd.grad(predicted[neuron], stimulus, retain_graph=True)
        weight = gradient[0, 0, 0].abs().numpy()
        centre = np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()
        np.testing.assert_allclose(centre, pixel, atol=0.02)


def test_pixels_outside_the_feature_maps_start_at_their_border() -> None:
    model = uniform_model({"spatial_kernel_sizes": [9, 3]}, (30, 40), 4)
    corners = np.array([[0, 0], [0, 39], [29, 0], [29, 39]], float)
    expected = [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    np.testing.assert_array_equal(output_positions(corners, model), expected)


def test_the_peak_is_where_all_lags_and_channels_together_have_most_energy() -> None:
    sta = np.zeros((2, 3, 2, 9, 12), np.float32)
    sta[0, :, :, 6, 2] = 0.5
    sta[0, 0, 0, 1, 9] = -1.0
    sta[1, 2, 1, 3, 10] = -0.1
    np.testing.assert_array_equal(peak_positions(sta, smoothing_px=0.5), [[6, 2], [3, 10]])


def recording_of_pixels(pixels: np.ndarray):
    """Return a recording whose neurons follow one pixel each, of a movie of independent pixels."""
    recording = fabricate_recording(n_neurons=len(pixels), n_trials=12, shape=(1, 12, 15))
    names = recording.bin_column("stimulus")
    shown = [recording.stimuli[name].frames[frame, 0] for name, frame in zip(names, recording.frame, strict=True)]
    responses = np.stack(shown)[:, pixels[:, 0], pixels[:, 1]].astype(np.float32) / 255
    return replace(recording, responses=responses)


@pytest.mark.parametrize("core", ["convolution", "none"])
def test_masks_start_where_the_recorded_neurons_look(core: str) -> None:
    pixels = np.array([[3, 2], [8, 12], [5, 7]])
    recording = recording_of_pixels(pixels)
    labels = {recording.session: np.where(recording.bin_column("tier") == "train", TRAIN, 3).astype(np.int8)}
    module = SimpleCoreWrapper((1, 2), (3,), (4,)) if core == "convolution" else DummyCore(cut_first_n_frames=2)
    sizes = {recording.session: len(pixels)}
    readout = MultiGaussianMaskReadout(core_output_shape(module, (1, 3, 12, 15)), sizes)
    model = BaseCoreReadout(module, readout, data_info={"input_shape": (1, 12, 15)})
    initialize_readouts(model, [recording], labels, compute_statistics([recording], labels), SETTINGS)
    masks = model.readout[recording.session].masks.detach().numpy()
    peaks = np.stack(np.unravel_index(masks.reshape(-1, len(pixels)).argmax(axis=0), masks.shape[:2]), axis=1)
    offset = 1.5 if core == "convolution" else 0.0
    assert np.abs(peaks + offset - pixels).max() <= 0.5


def test_only_training_bins_decide() -> None:
    recording = recording_of_pixels(np.array([[3, 2], [8, 12]]))
    tier = recording.bin_column("tier")
    labels = {recording.session: np.where(tier == "train", TRAIN, 3).astype(np.int8)}
    responses = recording.responses.copy()
    responses[tier == "test"] = 1e6
    starts = []
    for shown in (recording, replace(recording, responses=responses)):
        readout = MultiGaussianMaskReadout((1, 3, 12, 15), {recording.session: 2})
        model = BaseCoreReadout(DummyCore(cut_first_n_frames=2), readout)
        initialize_readouts(model, [shown], labels, compute_statistics([shown], labels), SETTINGS)
        starts.append(model.readout[recording.session].mask_mean.detach())
    assert torch.equal(*starts)


def test_an_unknown_method_is_an_error() -> None:
    model = BaseCoreReadout(DummyCore(), MultiGaussianMaskReadout((1, 3, 12, 15), {"a": 2}))
    with pytest.raises(ValueError, match=r"'best' is unknown, expected one of \['sta', 'none'\]"):
        initialize_readouts(model, [], {}, None, SETTINGS | {"method": "best"})


CORE = {"_target_": "coread.modules.core.base_core.SimpleCoreWrapper", "temporal_kernel_sizes": [3]}
TRAIN_SLICE = {
    "splits": {"method": "folds", "n_folds": 3, "clip_length": 20, "seed": 0},
    "dataloader": {"window_length": 24, "batch_size": 4, "normalize_stimulus": True, "response_scale": "none"},
    "loss": {"_target_": "coread.modules.losses.poisson.PoissonLoss3d"},
    "initialization": SETTINGS,
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
    "lr_scheduler": None,
    "trainer": {"max_epochs": 1},
    "training_callbacks": {},
    "quality_checks": {"allow_constant_neurons": True},
}


def train_slice(readout: dict, **changes: object) -> dict:
    model = {
        "_target_": "coread.models.core_readout.UnifiedCoreReadout",
        "hidden_channels": [2],
        "core": CORE | {"spatial_kernel_sizes": [3], "convolution_type": "full"},
        "readout": readout,
    }
    return TRAIN_SLICE | {"model": model | changes}


def sessions_with_positions() -> list[Recording]:
    rng, made = np.random.default_rng(1), []
    for session in ("a", "b"):
        recording = fabricate_recording(session, n_trials=2)
        table = recording.neurons.assign(px=rng.random(4), py=rng.random(4), match_id=["u", "v", "v", "w"])
        made.append(replace(recording, neurons=table))
    return made


@pytest.mark.parametrize(
    "arguments",
    [
        {"grid_mean_predictor": {"hidden_layers": 1}, "source_columns": ["px", "py"]},
        {"shared_features": {"match_column": "match_id"}},
        {"clone_readout": True},
    ],
    ids=["predicted points", "shared features", "clones"],
)
def test_readouts_that_need_the_tables_of_neurons_work_from_a_config(tmp_path: Path, arguments: dict) -> None:
    target = "coread.modules.readout.multi_readout.MultiSampledGaussianReadout"
    settings = train_slice({"_target_": target, **arguments})
    member = train(settings, sessions_with_positions(), 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    member.save(tmp_path / "model.ckpt")
    back = load_member(tmp_path / "model.ckpt")
    x = torch.randn(back.model.stimulus_shape(10))
    for session in ("a", "b"):
        torch.testing.assert_close(back.model(x, session), member.model(x, session), rtol=0, atol=0)
    if "shared_features" in arguments:
        a, b = (member.model.readout[session].features for session in ("a", "b"))
        torch.testing.assert_close(a / a[:, :1], b / b[:, :1])


def test_neurons_without_average_are_listed_with_the_member(tmp_path: Path) -> None:
    recording = fabricate_recording("a", n_trials=2)
    responses = recording.responses.copy()
    responses[:, 2] = 0.0
    model = {
        "_target_": "coread.models.spatial_contrast.SpatialContrastCoreReadout",
        "learning_rate": 0.05,
        "temporal_crop_frames": 3,
    }
    settings = TRAIN_SLICE | {"model": model}
    recordings = [replace(recording, responses=responses)]
    member = train(settings, recordings, 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    assert member.data_info["neurons_without_sta"] == {"a": [2]}
    assert member.model.readout["a"].without_sta.tolist() == [False, False, True, False]
    assert np.isfinite(member.history["train_loss"]).all()


def test_files_of_averages_of_published_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for cell in (4, 9):
        np.save(tmp_path / f"cell_data_01_WN_stas_cell_{cell}.npy", rng.standard_normal((12, 10, 12)))
    cells = {"sessions_kwargs": {"01": {"cell_indices": [4, 9]}}}
    arguments = {"in_shape": (1, 30, 8, 10), "n_neurons_dict": {"01": 2}, "sta_dir": tmp_path}
    model = SpatialContrastCoreReadout(**arguments, temporal_crop_frames=5, data_info=cells)
    assert model.lag == 4
    assert not model.readout["01"].takes_filters
    x = torch.randn(1, 1, 12, 8, 10)
    # what was read once is in the state dict: the files are not needed again
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    again = SpatialContrastCoreReadout(**arguments, temporal_crop_frames=5, data_info=model.data_info)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x, "01"), model(x, "01"))
    with pytest.raises(ValueError, match=r"session '01': data_info must list its cells"):
        SpatialContrastCoreReadout(**arguments)
