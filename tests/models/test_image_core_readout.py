"""Models of single images: what enters where, and what a prediction may depend on."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from coread.config import config_directory
from coread.models import ImageCoreReadout, is_model_causal
from coread.models.extension import add_sessions
from coread.models.member import build_model
from coread.modules.losses import PoissonLoss, PoissonLoss3d
from coread.modules.nonlinearities import elu1

SESSIONS = {"a": 5, "b": 7}
SHAPE = (1, 1, 12, 14)
CORE = {
    "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
    "hidden_channels": 4,
    "input_kern": 5,
    "hidden_kern": 3,
    "layers": 2,
    "stack": -1,
    "depth_separable": True,
    "gamma_input": 0.1,
}
READOUT = {
    "_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout",
    "grid_mean_predictor": {"hidden_layers": 1, "hidden_features": 6, "final_tanh": True},
    "source_columns": ["position_x_um", "position_y_um"],
    "gamma": 0.2,
}
SHIFTER = {"_target_": "coread.modules.shifter.MLPShifter", "init_scale": 5.0, "gamma_shifter": 0.3}
MODULATOR = {"_target_": "coread.modules.modulator.HistoryStateGainModulator", "nr_history": 3, "nr_behav_state": 4}


def info_of(sessions: dict[str, int]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    return {
        "input_shape": [1, 12, 14],
        "neurons_dict": {
            session: {
                name: torch.rand(count, generator=generator).tolist() for name in ("position_x_um", "position_y_um")
            }
            for session, count in sessions.items()
        },
        "n_trials_dict": dict.fromkeys(sessions, 50),
        "mean_activity_dict": {
            session: 0.2 + torch.rand(count, generator=generator) for session, count in sessions.items()
        },
    }


def make(**settings: Any) -> ImageCoreReadout:
    torch.manual_seed(1)
    plain: dict[str, Any] = {
        "core": CORE,
        "readout": READOUT,
        "shifter": SHIFTER,
        "modulator": MODULATOR,
        "behaviour_channels": 3,
        "data_info": info_of(SESSIONS),
    }
    return ImageCoreReadout(SHAPE, SESSIONS, **plain | settings)


def batch_of(model: ImageCoreReadout, session: str = "a", n: int = 6) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    everything = {
        "behaviour": torch.rand(n, 3, generator=generator),
        "pupil_center": torch.randn(n, 2, generator=generator),
        "history": torch.rand(n, SESSIONS[session], 3, generator=generator),
        "state": torch.rand(n, 4, generator=generator),
        "time_order": torch.randint(0, 50, (n,), generator=generator),
    }
    return torch.randn(n, 1, 12, 14, generator=generator), {name: everything[name] for name in model.context_names}


def test_a_prediction_in_evaluation_mode_depends_on_its_own_trial_alone() -> None:
    model = make()
    images, context = batch_of(model)
    for _ in range(3):  # running statistics that are not those of this batch
        model(images * 2 + 1, "a", **context)
    model.eval()
    together = model(images, "a", **context)
    assert torch.equal(together, model(images, "a", **context))
    alone = torch.cat(
        [model(images[i : i + 1], "a", **{k: v[i : i + 1] for k, v in context.items()}) for i in range(6)]
    )
    torch.testing.assert_close(together, alone)
    # and in training mode on its batch mates and on chance: what evaluation mode must not do
    model.train()
    torch.manual_seed(0)
    first = model(images, "a", **context)
    assert not torch.allclose(first, model(images, "a", **context))


@pytest.mark.parametrize("name", ["behaviour", "pupil_center", "history", "state", "time_order"])
def test_every_context_changes_the_prediction_and_is_asked_for(name: str) -> None:
    model = make().eval()
    images, context = batch_of(model)
    changed = context | {name: context[name] + 1}
    assert not torch.allclose(model(images, "a", **context), model(images, "a", **changed))
    context.pop(name)
    message = "the core takes 4 channels, images and planes have 1" if name == "behaviour" else name
    with pytest.raises(ValueError, match=message):
        model(images, "a", **context)


def test_windows_are_images_one_by_one() -> None:
    model = make().eval()
    images, context = batch_of(model)
    windows = images.reshape(2, 3, 1, 12, 14).transpose(1, 2)
    in_time = {name: value.reshape(2, 3, *value.shape[1:]) for name, value in context.items()}
    predicted = model(windows, "a", **in_time)
    assert predicted.shape == (2, 3, 5)
    torch.testing.assert_close(predicted.flatten(0, 1), model(images, "a", **context))
    with pytest.raises(ValueError, match=r"state must be \(batch, time, ...\) = \(2, 3\)"):
        model(windows, "a", **in_time | {"state": context["state"]})


def test_behaviour_may_stand_in_the_images() -> None:
    model = make(modulator=None).eval()
    images, context = batch_of(model)
    planes = context.pop("behaviour")[:, :, None, None].expand(-1, -1, 12, 14)
    stacked = model(torch.cat([images, planes], 1), "a", **context)
    torch.testing.assert_close(
        stacked, model(images, "a", **context, behaviour=planes[:, :, 0, 0]), rtol=1e-4, atol=1e-5
    )


def test_parts_that_are_off_want_nothing() -> None:
    assert make(shifter=None, modulator=None, behaviour_channels=0).context_names == ()
    causal = make(modulator=MODULATOR | {"gain": "causal", "include_state": False})
    assert causal.context_names == ("behaviour", "pupil_center", "history")
    assert make(modulator=MODULATOR | {"include_history": False}).context_names[2:] == ("state", "time_order")


def test_shift_moves_the_points_that_are_read() -> None:
    model = make(modulator=None, behaviour_channels=0).eval()
    images, context = batch_of(model)
    shift = model.shifter["a"](context["pupil_center"])
    maps = model.core(images)
    points = model.readout["a"].mu[:, :, 0] + shift[:, None]
    seen = torch.nn.functional.grid_sample(maps, points[:, :, None], align_corners=True)[..., 0]
    sums = (seen * model.readout["a"].features[0, :, 0]).sum(1) + model.readout["a"].bias
    torch.testing.assert_close(model(images, "a", **context), elu1(sums))


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"output_nonlinearity": "softplus", "softplus_beta": 0.07}, lambda x: torch.log1p(torch.exp(0.07 * x)) / 0.07),
        ({"elu_offset": 0.5}, lambda x: elu1(x + 0.5)),
        ({"output_nonlinearity": "exp"}, torch.exp),
    ],
)
def test_output_nonlinearity_and_start_at_the_mean_activity(settings: dict[str, Any], rate: Any) -> None:
    model = make(shifter=None, modulator=None, behaviour_channels=0, **settings).eval()
    torch.testing.assert_close(
        model(torch.zeros(1, *SHAPE[:1], 12, 14), "b")[0], rate(model.readout["b"].bias), atol=1e-5, rtol=1e-5
    )
    torch.nn.init.zeros_(model.readout["b"]._features)
    torch.testing.assert_close(model(torch.randn(1, 1, 12, 14), "b")[0], model.data_info["mean_activity_dict"]["b"])
    assert not make(start_at_mean_activity=False, **settings).readout["b"].bias.any()


def test_penalties_by_name_are_those_of_one_session() -> None:
    model = make()
    terms = model.penalties("b")
    assert sorted(terms) == [
        "core_input",
        "modulator_gain_coupling_l1",
        "modulator_gain_differences",
        "modulator_history_l1",
        "modulator_state_l1",
        "readout_feature_l1",
        "shifter_weight_l2",
    ]
    torch.testing.assert_close(terms["readout_feature_l1"], 0.2 * model.readout["b"]._features.abs().sum())
    torch.testing.assert_close(terms["modulator_history_l1"], 0.3 * model.modulator["b"].history_weights.abs().sum())
    torch.testing.assert_close(model.regularizer("b"), sum(terms.values()))


def test_summed_loss_is_scaled_by_the_trials_of_the_session() -> None:
    output, target = torch.rand(6, 1, 5) + 0.1, torch.rand(6, 1, 5)
    mask = torch.tensor([True, True, True, True, False, True])[:, None]
    model = make(loss=PoissonLoss(scale_by_trials=True))
    plain = PoissonLoss(bias=1e-12)(output[mask], target[mask])
    torch.testing.assert_close(model.data_loss(output, "a", target, mask), (50 / 5) ** 0.5 * plain)
    mean = make(loss=PoissonLoss3d())
    torch.testing.assert_close(mean.data_loss(output, "a", target, mask), plain / 25)
    with pytest.raises(ValueError, match="scale_by_trials needs the number of trials"):
        PoissonLoss(scale_by_trials=True)(output, target)


@pytest.mark.parametrize("gain", ["smoother", "causal"])
def test_every_parameter_of_the_session_gets_a_finite_gradient(gain: str) -> None:
    model = make(modulator=MODULATOR | {"gain": gain}, loss=PoissonLoss(scale_by_trials=True))
    if gain == "causal":
        torch.nn.init.constant_(model.modulator["a"].causal_gain.filter, 0.1)  # at 0 nothing else of it matters
    images, context = batch_of(model)
    output = model(images, "a", **context)[:, None]
    loss = model.data_loss(output, "a", torch.rand(6, 1, 5), torch.ones(6, 1, dtype=torch.bool))
    (loss + model.regularizer("a")).backward()
    for name, parameter in model.named_parameters():
        if ".b." in name:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_names_of_the_state_are_the_published_ones() -> None:
    names = set(make().state_dict())
    for name in (
        "core._input_weights_regularizer.laplace.filter",
        "core.features.layer0.conv.weight",
        "core.features.layer1.ds_conv.in_depth_conv.weight",
        "core.features.layer1.norm.running_mean",
        "readout.a._features",
        "readout.a.mu_transform.2.bias",
        "readout.a.source_grid",
        "shifter.a.mlp.4.weight",
        "modulator.a.own_gain",
        "modulator.a.state_encoder.weight",
        "modulator.a.coupling_offset",
    ):
        assert name in names
    assert len(names) == 15 + 2 * (8 + 6 + 7)


def test_session_must_be_named_and_known() -> None:
    model = make(shifter=None, modulator=None, behaviour_channels=0).eval()
    with pytest.raises(ValueError, match=r"data_key is needed.*\['a', 'b'\]"):
        model(torch.randn(1, 1, 12, 14))
    with pytest.raises(KeyError, match="no readout for session 'c'"):
        model(torch.randn(1, 1, 12, 14), "c")
    with pytest.raises(ValueError, match=r"beta is the steepness above 0 of softplus, got 0.07 for 'elu1'"):
        make(softplus_beta=0.07)
    with pytest.raises(ValueError, match="nonlinearity_function of the readout must be identity, got 'softplus'"):
        make(readout=READOUT | {"nonlinearity_function": "softplus"})


def test_new_sessions_get_shifter_modulator_and_bias() -> None:
    model = make()
    new = {"c": 4}
    info = info_of(new)
    add_sessions(
        model,
        new,
        info["mean_activity_dict"],
        n_trials_dict={"c": 30},
        neurons_dict=info["neurons_dict"],
    )
    assert model.modulator["c"].own_gain.shape == (30,)
    torch.testing.assert_close(elu1(model.readout["c"].bias), info["mean_activity_dict"]["c"])
    images, context = batch_of(model)
    context["history"] = context["history"][:, :4]
    context["time_order"] = context["time_order"] % 30
    assert model(images, "c", **context).shape == (6, 4)


@pytest.mark.parametrize("name", ["stacked_core_point_gaussian", "stacked_core_point_gaussian_modulated"])
def test_shipped_settings_build_the_published_sizes(name: str) -> None:
    with initialize_config_dir(str(config_directory()), version_base=None):
        node: Any = OmegaConf.to_container(compose(f"model/{name}"), resolve=True)["model"]
    off = dict.fromkeys(("loss", "optimizer", "lr_scheduler"))
    info = info_of({"a": 3}) | {"n_neurons_dict": {"a": 3}, "input_shape": [1, 36, 64]}
    model = build_model({"model": node, "dataloader": {"window_length": 1}} | off, info)
    is_modulated = name.endswith("modulated")
    n_core = sum(parameter.numel() for parameter in model.core.parameters())
    assert n_core == (65_024 if is_modulated else 55_232)
    assert model.readout["a"].in_shape == ((64, 1, 31, 59) if is_modulated else (64, 1, 28, 56))
    wanted = ("behaviour", "pupil_center") + (("history", "state", "time_order") if is_modulated else ())
    assert model.context_names == wanted


def test_no_frame_is_seen_by_another_bin() -> None:
    assert is_model_causal(make(shifter=None, modulator=None, behaviour_channels=0))
