"""Cores, convolutions, readouts and models draw their own weights, by the published names of methods and files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coread.models import ExampleCoreReadout
from coread.modules.core.base_core import DummyCore, SimpleCoreWrapper
from coread.modules.layers.convolutions import TorchFullConv3D
from coread.modules.readout import (
    FactorizedReadout,
    GaussianMaskReadout,
    LNPReadout,
    MultiGaussianMaskReadout,
    PointGaussianReadout,
)

SHAPE = (3, 8, 5, 7)


def shown(figure: Figure, panel: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[panel].images[0].get_array())


def course(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[1].lines[-1].get_ydata())


def title(axes: Axes) -> str:
    return axes.get_title(loc="left")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("centre_positive", [True, False])
def test_a_filter_is_drawn_as_space_and_time(centre_positive: bool) -> None:
    rng = np.random.default_rng(0)
    space, time = rng.normal(size=(4, 5)), np.array([0.1, 0.4, -2.0, 0.5])
    conv = TorchFullConv3D(2, 3, {}, 4, 4, 5, bias=False)
    with torch.no_grad():
        conv.filters()[2, 1] = torch.as_tensor(time[:, None, None] * space)
    figure = conv.plot_weights(1, 2, spatial_weight_center_positive=centre_positive)
    image, trace = shown(figure), course(figure)
    np.testing.assert_allclose(trace[:, None, None] * image, time[:, None, None] * space, atol=1e-5)
    peak = image if centre_positive else trace
    assert peak.flat[np.abs(peak).argmax()] > 0
    assert figure.get_suptitle() == "input 1, output 2"
    bare = conv.plot_weights(1, 2, add_titles=False, remove_ticks=True)
    assert bare.get_suptitle() == ""
    assert not len(bare.axes[0].get_xticks())


def test_a_core_writes_a_file_per_filter(tmp_path: Path) -> None:
    core = SimpleCoreWrapper((2, 3, 2), (4, 3), (3, 3), 0.0, 0.0, 0.0, 0.0, cut_first_n_frames=0)
    core.save_weight_visualizations(tmp_path, "png", "epoch1")
    first = [f"weights_layer_0/{i}_{o}_epoch1.png" for i in range(2) for o in range(3)]
    second = [f"weights_layer_1/{i}_{o}_epoch1.png" for i in range(3) for o in range(2)]
    assert names(tmp_path) == sorted(first + second)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in first)
    expected = core.convolutions[1].plot_weights(2, 0)
    assert np.array_equal(shown(core.plot_weight_visualization(1, 2, 0)), shown(expected))
    with pytest.raises(ValueError, match="layer 2 is none of the 2"):
        core.plot_weight_visualization(2, 0, 0)
    DummyCore().save_weight_visualizations(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("cls", [GaussianMaskReadout, FactorizedReadout])
def test_a_neuron_is_drawn_with_its_mask_and_features(cls: type) -> None:
    torch.manual_seed(0)
    readout = cls(SHAPE, 4) if cls is GaussianMaskReadout else FactorizedReadout(SHAPE, 4, 0.0, 0.0, 0.0)
    figure = readout.plot_weight_for_neuron(2)
    np.testing.assert_allclose(shown(figure), readout.masks[..., 2].detach())
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    weights = readout.features[0, :, 0] if cls is GaussianMaskReadout else readout.feature_weights
    np.testing.assert_allclose(heights, weights[:, 2].detach(), rtol=1e-6)
    assert [title(axes) for axes in figure.axes] == ["where neuron 2 reads", "feature weights"]
    own = Figure()
    axes = tuple(own.subplots(1, 2))
    assert readout.plot_weight_for_neuron(1, axes, remove_readout_ticks=True, add_titles=False) is own
    assert (title(own.axes[0]), len(own.axes[1].get_xticks())) == ("", 0)
    with pytest.raises(IndexError, match="neuron 4 is none of the 4"):
        readout.plot_weight_for_neuron(4)


def test_points_and_filters_are_drawn_too() -> None:
    point = PointGaussianReadout(SHAPE, 3)
    point.initialize_positions(torch.tensor([[0.5, -0.25], [0.0, 0.0], [1.0, 1.0]]))
    (dot,) = point.plot_weight_for_neuron(0).axes[0].collections
    np.testing.assert_allclose(dot.get_offsets(), [[0.5, -0.25]])
    lnp = LNPReadout(SHAPE, 2, temporal_kernel_size=4)
    with torch.no_grad():
        lnp.spatial_weights[1, :, [0, 2]] *= 0.1
    figure = lnp.plot_weight_for_neuron(1)
    expected = lnp.filters[1, :, 1].flip(0).detach()
    np.testing.assert_allclose(course(figure)[:, None, None] * shown(figure), expected, atol=1e-5)
    assert title(figure.axes[1]) == "time course"


def test_readouts_and_models_write_a_file_per_neuron(tmp_path: Path) -> None:
    readout = MultiGaussianMaskReadout(SHAPE, {"b": 2, "a": 1}, mean_activity_dict=None)
    readout.save_weight_visualizations(tmp_path / "readout")
    assert names(tmp_path / "readout") == ["a/neuron_0.jpg", "b/neuron_0.jpg", "b/neuron_1.jpg"]
    readout["b"].save_weight_visualizations(tmp_path / "some", "png", "x", cell_indices=[1])
    assert names(tmp_path / "some") == ["neuron_1_x.png"]
    clones = MultiGaussianMaskReadout(SHAPE, {"b": 2, "a": 2}, mean_activity_dict=None, clone_readout=True)
    assert np.array_equal(shown(clones["a"].plot_weight_for_neuron(1)), shown(clones["b"].plot_weight_for_neuron(1)))
    model = ExampleCoreReadout((2, 12, 6, 6), (2,), (3,), (3,), {"a": 1})
    model.save_weight_visualizations(tmp_path / "model", "png")
    assert names(tmp_path / "model") == [
        *[f"weights_core/weights_layer_0/{i}_{o}.png" for i in range(2) for o in range(2)],
        "weights_readout/a/neuron_0.png",
    ]


def test_models_need_no_plotting_until_they_draw() -> None:
    code = "import coread.models, coread.modules.readout, sys; sys.exit('coread.plotting' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
