import pytest
import torch

from coread.modules.core import ConditionedGRUCore, ConvGRUCore, Core, DummyCore, SimpleCoreWrapper
from coread.modules.layers.convolutions import CONVOLUTION_TYPES
from coread.modules.layers.gru import ConvGRUCell, GRU_Module
from coread.modules.layers.scaling import FiLM


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


def make_gru(convolution_type: str = "custom_separable", **kwargs) -> ConvGRUCore:
    sizes = {"channels": (2, 3, 4), "temporal_kernel_sizes": (7, 4), "spatial_kernel_sizes": (5, 4)}
    gru = {"rec_channels": 5, "input_kern": 3, "rec_kern": 3}
    return ConvGRUCore(**{**sizes, "convolution_type": convolution_type, "use_gru": True, "gru_kwargs": gru, **kwargs})


# the parameters that each penalty is about, by name; layer 0 reads several channels here
CONCERNED = {
    "gamma_input": {
        "custom_separable": ["layer0.conv.weight_spatial"],
        "separable": ["layer0.conv.space_conv.weight"],
        "full": ["layer0.conv.conv.weight"],
        "time_independent": ["layer0.conv.conv.weight"],
    },
    "gamma_hidden": {
        "custom_separable": ["layer1.conv.weight_spatial"],
        "separable": ["layer1.conv.space_conv.weight"],
        "full": ["layer1.conv.conv.weight"],
        "time_independent": ["layer1.conv.conv.weight"],
    },
    "gamma_temporal": {
        "custom_separable": [f"layer{i}.conv.{kind}_weights" for i in (0, 1) for kind in ("sin", "cos")],
        "separable": ["layer0.conv.time_conv.weight"],
        "full": ["layer0.conv.conv.weight"],
    },
}
CONCERNED["gamma_in_sparse"] = {
    name: [parameters[0].replace("layer1", layer) for layer in ("layer0", "layer1")]
    for name, parameters in CONCERNED["gamma_hidden"].items()
}


@pytest.mark.parametrize("build", [make, make_gru])
@pytest.mark.parametrize(
    ("gamma", "convolution_type"), [(gamma, name) for gamma, kinds in CONCERNED.items() for name in kinds]
)
def test_every_penalty_has_a_gradient_on_every_parameter_that_it_concerns(build, convolution_type: str, gamma: str):
    core = build(convolution_type, **{gamma: 2.0})
    assert list(core.penalties()) == [gamma.removeprefix("gamma_")]
    penalty = core.regularizer()
    penalty.backward()
    moved = {name.removeprefix("features.") for name, p in core.named_parameters() if p.grad is not None}
    assert penalty > 0
    assert moved == set(CONCERNED[gamma][convolution_type])
    for name, parameter in core.features.named_parameters():
        if name in moved:
            assert torch.isfinite(parameter.grad).all()
            assert (parameter.grad.flatten(1).abs().sum(1) > 0).all(), f"a filter of {name} gets no gradient"
    unweighted = build(convolution_type, **{gamma: 1.0})
    unweighted.load_state_dict(core.state_dict())
    torch.testing.assert_close(penalty, 2 * unweighted.regularizer())


def test_the_recurrent_penalty_moves_every_recurrent_filter():
    core = make_gru(gru_kwargs={"rec_channels": 5, "input_kern": 3, "rec_kern": 3, "gamma_rec": 0.5})
    assert list(core.penalties()) == ["recurrent"]
    core.regularizer().backward()
    moved = {name for name, p in core.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {f"features.gru.gru.{gate}_gate_hidden.weight" for gate in ("reset", "update", "out")}


def test_a_core_of_ones_own_with_only_a_regularizer_is_penalised():
    class Own(DummyCore):
        def regularizer(self) -> torch.Tensor:
            return torch.tensor(2.0)

    assert Own().regularizer() == 2
    assert Core().penalties() == {}
    assert Core().regularizer() == 0


def test_filters_too_small_for_a_penalty_are_refused():
    with pytest.raises(ValueError, match=r"gamma_input needs .* at least 3 x 3 pixels in layer 0, got \[2, 2\]"):
        make(spatial_kernel_sizes=(2, 4), gamma_input=1.0)
    with pytest.raises(ValueError, match=r"gamma_temporal needs filters of at least 3 frames in layer 0, got 2"):
        make("full", temporal_kernel_sizes=(2, 4), gamma_temporal=1.0)


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


# ------------------------------------------------------------------------------------------------ log speed per session


def test_a_log_speed_per_session_stretches_the_filters_of_all_layers():
    core = make(learn_session_log_speed=True, n_neurons_dict={"a": 3, "b": 4}).eval()
    speeds = [p for name, p in core.named_parameters() if "log_speed" in name]
    assert [p.shape for p in speeds] == [(1,), (1,)]  # one per session, shared by the layers
    x = torch.randn(1, 2, 25, 14, 13)
    torch.testing.assert_close(core(x, "a"), core(x))  # they start unstretched
    with torch.no_grad():
        speeds[0].fill_(0.4)
    assert not torch.allclose(core(x, "a"), core(x, "b"), rtol=1e-3)
    torch.testing.assert_close(core(x, "b"), core(x))
    torch.testing.assert_close(core(x, "a session of another experiment"), core(x))
    core(x, "a").square().sum().backward()
    assert speeds[0].grad.abs() > 0
    assert speeds[1].grad is None


def test_log_speeds_need_sessions_and_filters_that_can_be_stretched():
    with pytest.raises(ValueError, match="n_neurons_dict"):
        make(learn_session_log_speed=True)
    with pytest.raises(ValueError, match="custom_separable, not full"):
        make("full", learn_session_log_speed=True, n_neurons_dict={"a": 1})
    assert not make().session_dependent


def test_new_sessions_get_a_log_speed_that_all_layers_share():
    core = make(learn_session_log_speed=True, n_neurons_dict={"a": 3}).eval()
    core.add_sessions(["c"])
    speeds = core.session_parameters()
    assert set(speeds) == {f"features.layer{i}.conv.log_speed_{session}" for i in (0, 1) for session in "ac"}
    assert set(speeds) < set(core.state_dict())
    assert speeds["features.layer0.conv.log_speed_c"] is speeds["features.layer1.conv.log_speed_c"]
    x = torch.randn(1, 2, 25, 14, 13)
    assert torch.equal(core(x, "c"), core(x, "a session of another experiment"))
    with torch.no_grad():
        speeds["features.layer0.conv.log_speed_c"].fill_(0.4)
    assert not torch.allclose(core(x, "c"), core(x), rtol=1e-3)
    plain = make(n_neurons_dict={"a": 3})
    plain.add_sessions(["c"])
    assert plain.session_parameters() == DummyCore().session_parameters() == {}


# ------------------------------------------------------------------------------------------------------ recurrent cores


@pytest.mark.parametrize("convolution_type", sorted(CONVOLUTION_TYPES))
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_recurrent_cores_are_causal_and_keep_the_size_for_even_kernels_too(convolution_type: str, kernel: int):
    gru = {"rec_channels": 5, "input_kern": kernel, "rec_kern": kernel}
    core = make_gru(convolution_type, gru_kwargs=gru, use_projections=True, cut_first_n_frames=2).eval()
    x = torch.randn(2, 2, 25, 14, 13)
    changed = x.clone()
    changed[:, :, -1] += 1
    y, y_changed = core(x), core(changed)
    assert core.lag == 2 + (0 if convolution_type == "time_independent" else 9)
    assert y.shape == (2, 5, 25 - core.lag, 10, 9)  # layer 0 is valid, layer 1 and the GRU keep the size
    torch.testing.assert_close(y[:, :, :-1], y_changed[:, :, :-1])
    assert not torch.equal(y[:, :, -1], y_changed[:, :, -1])


def test_the_gru_follows_its_equations_frame_by_frame():
    module = GRU_Module(2, 3, 3, 4).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 2, 6, 5, 7, dtype=torch.float64)
    cell, state = module.gru, torch.zeros(2, 3, 5, 7, dtype=torch.float64)
    for t, expected in enumerate(module(x).unbind(2)):
        frame = x[:, :, t]
        update = torch.sigmoid(cell.update_gate_input(frame) + cell.update_gate_hidden(state))
        reset = torch.sigmoid(cell.reset_gate_input(frame) + cell.reset_gate_hidden(state))
        candidate = torch.tanh(cell.out_gate_input(frame) + cell.out_gate_hidden(state * reset))
        stepped = cell(frame, state)
        state = state * (1 - update) + candidate * update
        torch.testing.assert_close(state, expected)
        torch.testing.assert_close(stepped, expected)
    assert ConvGRUCell(2, 3, 4, 3, pad_input=False)(torch.randn(1, 2, 9, 9)).shape == (1, 3, 6, 6)


@pytest.mark.parametrize("cut", [0, 3])
def test_a_carried_state_goes_on_where_the_last_call_ended(cut: int):
    core = make_gru(cut_first_n_frames=cut).eval()
    x = torch.randn(2, 2, 40, 14, 13)
    whole = core(x)
    core.restart(carry=True)
    pieces = [core(x[:, :, start : start + core.lag + 9]) for start in range(0, whole.shape[2], 9)]
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole)
    core.restart(carry=True)
    torch.testing.assert_close(core(x), whole)
    core.restart(carry=False)
    torch.testing.assert_close(core(x), whole)
    torch.testing.assert_close(core(x), whole)


def test_every_hidden_layer_is_padded_by_its_own_filter():
    sizes = {"channels": (1, 2, 2, 2), "temporal_kernel_sizes": 3, "spatial_kernel_sizes": (5, 7, 3), "use_gru": False}
    x = torch.randn(1, 1, 12, 15, 16)
    assert make_gru(**sizes)(x).shape[3:] == (11, 12)
    # published: layer 1 gets none, layer 2 the padding of layer 1
    assert make_gru(**sizes, published_behaviour=True)(x).shape[3:] == (11 - 6 + 4, 12 - 6 + 4)


def test_the_recurrent_core_tells_where_its_output_looks():
    core = make_gru(spatial_kernel_sizes=(5, 4), gru_kwargs={"rec_channels": 1, "input_kern": 2, "rec_kern": 1}).eval()
    x = torch.zeros(1, 2, core.lag + 1, 14, 13, requires_grad=True)
    core(x)[0, 0, 0, 4, 3].backward()
    seen = x.grad.abs().sum((0, 1, 2)).nonzero().float()
    centre = (seen.min(0).values + seen.max(0).values) / 2
    assert centre.tolist() == [4 + core.spatial_offset[0], 3 + core.spatial_offset[1]]


def test_a_session_or_a_given_condition_modulates_every_layer():
    core = ConditionedGRUCore(
        2,
        channels=(1, 3, 4),
        n_neurons_dict={"a": 1, "b": 1},
        temporal_kernel_sizes=3,
        spatial_kernel_sizes=3,
        use_gru=True,
        gru_kwargs={"rec_channels": 2, "input_kern": 3, "rec_kern": 3},
    ).eval()
    films = [module for module in core.modules() if isinstance(module, FiLM)]
    assert [film.num_features for film in films] == [3, 4]
    assert core.session_dependent
    x = torch.randn(2, 1, 9, 8, 8)
    condition = core.session_conditions["a"].detach()
    torch.testing.assert_close(core(x, data_key="a"), core(x, condition.expand(2, -1)))
    torch.testing.assert_close(core(x, data_key="new"), core(x, torch.zeros(2, 2)))
    assert not torch.equal(core(x, data_key="a"), core(x, data_key="b"))
    core(x, data_key="a").square().sum().backward()
    assert core.session_conditions["a"].grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for film in films for p in film.parameters())
    with pytest.raises(ValueError, match=r"condition .* of \(2, 2\), got \(2, 3\)"):
        core(x, torch.zeros(2, 3))
    core.add_sessions(["c"])
    assert set(core.session_parameters()) == {f"session_conditions.{session}" for session in "abc"}
    assert torch.equal(core(x, data_key="c"), core(x, data_key="new"))


def test_wrong_recurrent_cores_are_refused():
    with pytest.raises(ValueError, match="kernel sizes each layer"):
        make_gru(temporal_kernel_sizes=(3,))
    with pytest.raises(ValueError, match="gru_kwargs"):
        make_gru(gru_kwargs=None)
    with pytest.raises(TypeError, match="rec_kernel"):
        make_gru(gru_kwargs={"rec_channels": 1, "input_kern": 1, "rec_kern": 1, "rec_kernel": 3})


def test_no_core_keeps_a_tensor_of_its_last_forward():
    for core in (make(), make_gru(), make("full"), make("separable"), make("time_independent")):
        core(torch.randn(1, 2, 25, 14, 13))
        kept = [v for m in core.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
        assert not any(tensor.grad_fn is not None for tensor in kept)


def test_the_published_gru_core_has_its_own_penalties_and_state():
    """Group sparsity of all layers for `gamma_hidden`, of layer 0 in space and time for `gamma_in_sparse`."""
    core = ConvGRUCore(
        (2, 3, 4), {"s": 5}, (6, 3), (5, 3), 0.5, 0.0, 0.25, 0.0, batch_adaptation=True, published_behaviour=True
    )

    def sparsity(weight):
        groups = weight.flatten(2).norm(dim=2)
        return (groups.sum(1) / (1e-8 + groups.square().sum(1)).sqrt()).sum()

    expected = 0.5 * sum(sparsity(conv.weight_spatial) for conv in core.convolutions)
    expected += 0.25 * sparsity(core.convolutions[0].weight())
    torch.testing.assert_close(core.regularizer(), expected, rtol=1e-4, atol=1e-4)
    published = core.state_dict() | {
        "log_speed_s": torch.zeros(1),
        "_input_weights_regularizer_temporal.laplace.filter": torch.zeros(1, 1, 3),
    }
    core.load_state_dict(published)
    without = ConvGRUCore((2, 3, 4), None, (6, 3), (5, 3), final_nonlinearity=False, published_behaviour=True)
    assert not any(hasattr(layer, "nonlin") for layer in without.features)
    kept = ConvGRUCore((2, 3, 4), None, (6, 3), (5, 3), final_nonlinearity=False)
    assert [hasattr(layer, "nonlin") for layer in kept.features] == [True, False]
