"""Readouts start on the pixel where the spike-triggered average peaks, whatever the core does to the image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from coread.data_io.splits import TRAIN
from coread.data_io.statistics import compute_statistics
from coread.models.core_readout import BaseCoreReadout, core_output_shape
from coread.models.initialization import initialize_readouts, output_positions, peak_positions
from coread.modules.core.base_core import DummyCore, SimpleCoreWrapper
from coread.modules.readout.multi_readout import MultiGaussianMaskReadout, MultiSampledGaussianReadout
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
