import pytest
import torch

from coread.modules.core import DummyCore, SimpleCoreWrapper
from coread.modules.layers.convolutions import CONVOLUTION_TYPES

TEMPORAL = [name for name in CONVOLUTION_TYPES if name != "time_independent"]


def make(convolution_type: str = "custom_separable", **kwargs) -> SimpleCoreWrapper:
    sizes = {"channels": (2, 3, 4), "temporal_kernel_sizes": (7, 4), "spatial_kernel_sizes": (5, 4)}
    return SimpleCoreWrapper(**{**sizes, "convolution_type": convolution_type, **kwargs})


@pytest.mark.parametrize("convolution_type", sorted(CONVOLUTION_TYPES))
@pytest.mark.parametrize("padding", [False, True, 1, (0, 1, 1)])
def test_causal_with_the_lag_it_tells(convolution_type: str, padding):
    core = make(convolution_type, input_padding=padding, hidden_padding=padding).eval()
    x = torch.randn(1, 2, 25, 14, 13)
    changed = x.clone()
    changed[:, :, -1] += 1
    y, y_changed = core(x), core(changed)
    assert core.lag == (0 if convolution_type == "time_independent" else 9)
    assert y.shape[2] == 25 - core.lag
    torch.testing.assert_close(y[:, :, :-1], y_changed[:, :, :-1])
    assert not torch.equal(y[:, :, -1], y_changed[:, :, -1])


def test_all_frames_survive_but_those_without_history():
    assert make()(torch.randn(1, 2, 40, 14, 13)).shape[2] == 40 - 9
    cut = make(cut_first_n_frames=5)
    assert cut.lag == 14
    assert cut(torch.randn(1, 2, 40, 14, 13)).shape[2] == 40 - 14


@pytest.mark.parametrize(
    ("convolution_type", "gamma"),
    [(name, "gamma_temporal") for name in TEMPORAL]
    + [(name, gamma) for name in CONVOLUTION_TYPES for gamma in ("gamma_input", "gamma_hidden", "gamma_in_sparse")],
)
def test_every_penalty_has_a_gradient(convolution_type: str, gamma: str):
    core = make(convolution_type, **{gamma: 2.0})
    penalty = core.regularizer()
    penalty.backward()
    gradients = [p.grad.abs().sum() for p in core.parameters() if p.grad is not None]
    assert penalty > 0
    assert sum(gradients) > 0
    unweighted = make(convolution_type, **{gamma: 1.0})
    unweighted.load_state_dict(core.state_dict())
    torch.testing.assert_close(penalty, 2 * unweighted.regularizer())


def test_no_penalty_by_default_and_the_sum_of_several():
    assert make().regularizer() == 0
    gammas = {"gamma_input": 0.3, "gamma_hidden": 0.1, "gamma_temporal": 2.0, "gamma_in_sparse": 0.2}
    together = make(**gammas)
    alone = []
    for name, value in gammas.items():
        core = make(**{name: value})
        core.load_state_dict(together.state_dict())
        alone.append(core.regularizer())
    torch.testing.assert_close(together.regularizer(), torch.stack(alone).sum())


def test_dropout_pooling_squashing_and_downsampling():
    core = make(
        channels=(1, 3, 4),
        dropout_rate=0.5,
        maxpool_every_n_layers=2,
        color_squashing_weights=(0.2, 0.8),
        downsample_input_kernel_size=(1, 2, 2),
    )
    x = torch.randn(2, 2, 20, 40, 40)
    # 40 -> 20 averaged -> 16 valid -> 8 pooled -> 8 (space is padded) and layer 1 is not pooled
    assert core(x).shape == (2, 4, 11, 8, 8)
    assert not torch.equal(core(x), core(x))
    core.eval()
    assert torch.equal(core(x), core(x))
    grey = 0.2 * x[:, :1] + 0.8 * x[:, 1:]
    torch.testing.assert_close(core(x), core(grey))


def test_contradictory_arguments_are_errors():
    with pytest.raises(ValueError, match="kernel sizes each layer"):
        make(temporal_kernel_sizes=(7,))
    with pytest.raises(ValueError, match="time_independent"):
        make("time_independent", gamma_temporal=1.0)
    with pytest.raises(ValueError, match="leave time alone"):
        make(downsample_input_kernel_size=(2, 1, 1))
    with pytest.raises(ValueError, match="color_squashing_weights"):
        make(channels=(3, 3, 4), color_squashing_weights=(0.5, 0.5))
    with pytest.raises(TypeError):
        make(chanels=(1, 2))


def test_dummy_core_passes_the_stimulus_on():
    x = torch.randn(1, 2, 9, 3, 3)
    core = DummyCore(cut_first_n_frames=2, channels=[2], n_neurons_dict={"a": 1})
    assert torch.equal(core(x), x[:, :, 2:])
    assert core.lag == 2
    assert core.regularizer() == 0
