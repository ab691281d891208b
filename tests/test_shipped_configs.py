"""Every shipped experiment: its settings, its model at the size of its data, one optimiser step, live penalties."""

import copy
import functools
from itertools import pairwise
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from coread.callbacks import KeepBest
from coread.config import STAGES, compose, config_directory, experiment_slice, stage_slice
from coread.data_io.dataloader import DataPoint
from coread.models import BaseCoreReadout, is_model_causal
from coread.models.member import build_model
from coread.modules.losses import CelltypePoissonLoss3d
from coread.search.space import experiment_search

# (channel, height, width) of every dataset's stimulus
SHAPES = {
    "simulated_retina": (1, 16, 18),
    "simulated_tuning": (2, 16, 18),
    "hdf5_directory": (3, 16, 8),
    "liu_2017": (1, 44, 40),
    "hoefling_2024_low_res": (2, 18, 16),
    "hoefling_2024_high_res": (2, 72, 64),
    "karamanlis_2024_mouse": (1, 60, 80),
    "karamanlis_2024_marmoset": (1, 60, 80),
    "maheswaranathan_2023": (1, 50, 50),
    "maheswaranathan_2023_whitenoise": (1, 50, 50),
    "goldin_2022_mouse": (1, 108, 108),
    "goldin_2022_axolotl": (1, 108, 108),
    "sridhar_2025_natural_movie": (1, 80, 90),
    "sridhar_2025_white_noise": (1, 80, 90),
    "sensorium_2022": (1, 36, 64),
    "simulated_cortex": (1, 28, 38),
}
EXPERIMENTS = sorted(
    path.stem for path in config_directory().glob("*.yaml") if "\ndefaults:" in "\n" + path.read_text()
)
# of the same settings as their namesakes on published recordings, but for the width, as a test below says
SIMULATED = [name for name in EXPERIMENTS if name.startswith("simulated_cortex_")]
MODELS = [name for name in EXPERIMENTS if name not in SIMULATED]
N_NEURONS = 3
# of images: their loss is a sum over trials and neurons, of which penalties must be a share as in a real session
N_IMAGES, N_CORTEX_NEURONS, N_TRIALS = 16, 100, 6000
NARROW = 8  # channels per layer where a model is only tried
WIDE = 2_000_000  # pairs of channels x pixels of the stimulus above which the full width is tried only as `slow`
SCORES = {"val_correlation": "max", "val_loss": "min"}
# sine and cosine weights start at a standard deviation of 0.01; after training on the simulated retina it was 0.11
GROWN = 10.0
INERT = 1e-6  # of the loss: the threshold of the report


def settings_of(experiment: str, narrow: bool = False) -> dict[str, Any]:
    settings = copy.deepcopy(experiment_slice(experiment, "train"))
    if narrow and (widths := settings["model"].get("hidden_channels")):
        settings["model"]["hidden_channels"] = [NARROW] * len(widths)
    if narrow and shows_images(experiment):
        settings["model"]["core"]["hidden_channels"] = NARROW
    return settings


def shows_images(experiment: str) -> bool:
    return experiment_slice(experiment, "train")["model"]["_target_"].endswith("ImageCoreReadout")


def sizes_of(experiment: str) -> dict[str, Any]:
    dataset = compose(experiment).data_io.dataset
    n_neurons = N_CORTEX_NEURONS if shows_images(experiment) else N_NEURONS
    sizes: dict[str, Any] = {
        "input_shape": list(SHAPES[dataset]),
        "n_neurons_dict": {"a": n_neurons},
        "mean_activity_dict": {"a": torch.full((n_neurons,), 0.7)},
        "neurons_dict": {"a": {"cell_type": ["x", "x", "y"]}},
        "n_trials_dict": {"a": N_TRIALS},
    }
    if shows_images(experiment):
        place = torch.linspace(0, 600, n_neurons)
        sizes["neurons_dict"] = {"a": {"position_x_um": place.tolist(), "position_y_um": place.flip(0).tolist()}}
        sizes["typical_context"] = {"a": {name: values[0, 0] for name, values in context_of(n_neurons, 1).items()}}
    return sizes


def context_of(n_neurons: int, batch: int) -> dict[str, Tensor]:
    """Return what a model of images may want, with the widths that configs/regressors/default.yaml gives."""
    lags = len(compose("sensorium_2022_model4").regressors.history.lags)
    components = int(compose("sensorium_2022_model4").regressors.state.factors)
    generator = torch.Generator().manual_seed(3)
    shapes = {"behaviour": (3,), "pupil_center": (2,), "history": (n_neurons, lags), "state": (components,)}
    context = {name: torch.rand(batch, 1, *shape, generator=generator) for name, shape in shapes.items()}
    return context | {"time_order": torch.randint(N_TRIALS, (batch, 1), generator=generator)}


def make_model(experiment: str, narrow: bool = False) -> BaseCoreReadout:
    """Build the model; readouts that start from spike-triggered averages get some."""
    torch.manual_seed(1)
    model = build_model(settings_of(experiment, narrow), sizes_of(experiment))
    readout: Any = model.readout["a"]
    if hasattr(readout, "initialize_filters") and readout.takes_filters:
        channels, height, width = SHAPES[compose(experiment).data_io.dataset]
        y, x = torch.meshgrid(torch.arange(height) - 0.5 * height, torch.arange(width) - 0.4 * width, indexing="ij")
        blob = torch.exp(-(y.square() + x.square()) / 18).expand(N_NEURONS, readout.lag + 1, channels, -1, -1)
        course = torch.exp(-torch.arange(readout.lag + 1.0) / 4)[:, None, None, None]
        readout.initialize_filters(blob * course + 0.01 * torch.randn_like(blob))
    return model


def is_wide(experiment: str) -> bool:
    model = settings_of(experiment)["model"]
    channels, height, width = SHAPES[compose(experiment).data_io.dataset]
    layers = [model["core"]["hidden_channels"]] * model["core"]["layers"] if shows_images(experiment) else []
    sizes = [channels, *(model.get("hidden_channels") or layers)]
    pairs = sum(n_in * n_out for n_in, n_out in pairwise(sizes))
    return pairs * height * width > WIDE


def batch_of(model: BaseCoreReadout) -> tuple[str, DataPoint]:
    generator = torch.Generator().manual_seed(2)
    if model.context_names:
        n_neurons = model.data_info["n_neurons_dict"]["a"]
        images = torch.randn(model.stimulus_shape(1, N_IMAGES), generator=generator)
        activity = torch.poisson(torch.full((N_IMAGES, 1, n_neurons), 0.7), generator=generator)
        known = {
            name: values for name, values in context_of(n_neurons, N_IMAGES).items() if name in model.context_names
        }
        return "a", DataPoint(images, activity, torch.ones(N_IMAGES, 1, dtype=torch.bool), known)
    time = model.lag + 2
    stimulus = torch.randn(model.stimulus_shape(time), generator=generator)
    responses = torch.poisson(torch.full((1, time, N_NEURONS), 0.7), generator=generator)
    return "a", DataPoint(stimulus, responses, torch.ones(1, time, dtype=torch.bool))


class KeepGradients(pl.Callback):
    """The gradients of the step, which Lightning has forgotten once training ends."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor | None] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            self.gradients[name] = None if parameter.grad is None else parameter.grad.clone()


def take_one_step(
    model: BaseCoreReadout, trainer_settings: dict[str, Any]
) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    """Take one optimiser step and one validation; return what was logged, and the gradient of every parameter."""
    kept = KeepGradients()
    batches: Any = torch.utils.data.DataLoader([batch_of(model)], batch_size=None)  # type: ignore[arg-type]
    settings = {name: value for name, value in trainer_settings.items() if name != "num_processes"}
    trainer = pl.Trainer(
        **settings | {"max_epochs": 1, "accumulate_grad_batches": 1, "gradient_clip_val": None},
        accelerator="cpu",
        callbacks=[kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, batches, batches)
    assert trainer.global_step == 1
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, kept.gradients


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_settings_are_whole_and_consistent(experiment: str) -> None:
    config = compose(experiment)
    for stage in STAGES:
        stage_slice(config, stage)  # refuses what has no value
    assert config.exp_name == experiment
    assert "target" not in config.logger
    data_io = config.data_io
    declared = tuple(data_io.get(name) for name in ("color_channels", "video_height", "video_width"))
    for size, written in zip(SHAPES[data_io.dataset], declared, strict=True):
        assert written in (None, size)
    # what is watched is logged by every training, and in the sense in which it gets better
    for callback in config.training_callbacks.values():
        if "monitor" in callback:
            assert SCORES[callback.monitor] == callback.mode
    if "monitor" in (config.get("lr_scheduler") or {}):
        assert config.lr_scheduler["mode"] in (None, SCORES[config.lr_scheduler.monitor])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_training_stops_and_slows_down_by_the_score_that_chooses_its_weights(experiment: str) -> None:
    config = compose(experiment)
    watching = [*config.training_callbacks.values(), config.get("lr_scheduler") or {}]
    assert {node.monitor for node in watching if "monitor" in node} <= {KeepBest().monitor}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_search_of_every_experiment_varies_settings_that_it_has(experiment: str) -> None:
    assert experiment_search(experiment)["search"]["n_trials"] > 0  # refuses a space with settings that nothing reads


def test_the_documented_groups_exist() -> None:
    groups = "data_io dataloader model trainer logger training_callbacks quality_checks hydra"
    for group in groups.split():
        assert list((config_directory() / group).glob("*.yaml")), group


@pytest.mark.parametrize("experiment", SIMULATED)
def test_experiments_on_the_simulated_cortex_differ_in_size_and_patience_only(experiment: str) -> None:
    expected = copy.deepcopy(experiment_slice(experiment.replace("simulated_cortex", "sensorium_2022"), "train"))
    simulated = experiment_slice(experiment, "train")
    expected["model"]["core"] |= {"hidden_channels": 16, "layers": 2}
    expected["dataloader"]["batch_size"] = 32
    if "rounds_of_patience" in expected["training_callbacks"]:
        expected["training_callbacks"]["rounds_of_patience"]["patience"] = 10
    if experiment == "simulated_cortex_state":
        expected["model"]["modulator"]["alpha_behav"] = 5.0
    assert simulated == expected
    assert compose(experiment).data_io.dataset == "simulated_cortex"


# --------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("experiment", MODELS)
def test_the_model_fits_its_data_and_is_causal(experiment: str) -> None:
    settings = settings_of(experiment)
    model = make_model(experiment)  # in its own width
    assert settings["dataloader"]["window_length"] > model.lag
    if is_wide(experiment):
        model = make_model(experiment, narrow=True)
    assert is_model_causal(model, time_steps=model.lag + 3)


def test_padding_in_time_is_seen_in_models_that_hardly_depend_on_their_stimulus() -> None:
    experiment = "karamanlis_2024_core_readout"
    settings = settings_of(experiment, narrow=True)
    assert settings["model"]["core"]["hidden_padding"] == [0, 5, 5]
    settings["model"]["core"]["hidden_padding"] = [5, 5, 5]
    torch.manual_seed(1)
    assert not is_model_causal(build_model(settings, sizes_of(experiment)))


@functools.cache  # most models are narrow enough for both tests to ask for the same step
def check_one_step(experiment: str, narrow: bool) -> None:
    settings = settings_of(experiment, narrow)
    model = make_model(experiment, narrow)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    logged, gradients = take_one_step(model, settings["trainer"])
    assert {"train_loss", "train_penalty", "val_loss", "val_correlation"} <= logged.keys()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name in trained:
        gradient = gradients[name]
        assert gradient is not None, f"{name} has no gradient"
        assert torch.isfinite(gradient).all(), f"{name} has a gradient that is not finite"
        assert (gradient != 0).any(), f"the gradient of {name} is zero"
    assert any(not torch.equal(parameter.detach(), start[name]) for name, parameter in trained.items())
    terms = {name: value for name, value in logged.items() if name.startswith("train_penalty_")}
    assert sum(terms.values()) == pytest.approx(logged["train_penalty"], rel=1e-4)


@pytest.mark.parametrize("experiment", MODELS)
def test_one_step_has_a_gradient_for_every_parameter(experiment: str) -> None:
    check_one_step(experiment, narrow=is_wide(experiment))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", MODELS)
def test_one_step_has_a_gradient_for_every_parameter_in_full_width(experiment: str) -> None:
    check_one_step(experiment, narrow=False)


# ------------------------------------------------------------------------------------------------------------ penalties


@pytest.mark.parametrize("experiment", MODELS)
def test_no_penalty_that_is_switched_on_is_inert(experiment: str) -> None:
    model = make_model(experiment)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("sin_weights", "cos_weights")):
                parameter.mul_(GROWN)
    scale = abs(data_loss(experiment))
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, value in model.penalties("a").items():
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        assert any(g is not None and torch.isfinite(g).all() and (g != 0).any() for g in gradients), name
        assert INERT < float(value) / scale < 0.5, f"{name} is {float(value) / scale:.1e} of the loss"


def data_loss(experiment: str) -> float:
    """Return the loss of a narrow model, which predicts about the mean rate at the start, as any does."""
    model = make_model(experiment, narrow=True)
    session, point = batch_of(model)
    with torch.no_grad():
        output = model(point.inputs, session, **point.context)
        return float(model.data_loss(output, session, point.targets, point.mask))


@pytest.mark.parametrize("experiment", MODELS)
def test_every_switched_on_gamma_of_the_settings_is_a_term(experiment: str) -> None:
    core = settings_of(experiment)["model"].get("core", {})
    gammas = {key.removeprefix("gamma_") for key, value in core.items() if key.startswith("gamma_") and value}
    if core.get("gru_kwargs", {}).get("gamma_rec"):
        gammas.add("recurrent")
    terms = {name.removeprefix("core_") for name in make_model(experiment).penalties("a") if name.startswith("core_")}
    assert terms == gammas


# --------------------------------------------------------------------------------------------------------------- groups

BASE = "simulated_retina"


def model_with(*overrides: str) -> tuple[BaseCoreReadout, dict[str, Any]]:
    settings = stage_slice(compose(BASE, overrides), "train")
    return build_model(settings, sizes_of(BASE)), settings


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_directory() / "lr_scheduler").glob("*.yaml")))
def test_every_schedule_trains(name: str) -> None:
    model, settings = model_with(f"lr_scheduler={name}")
    take_one_step(model, settings["trainer"])
    (config,) = model.trainer.lr_scheduler_configs
    published = {"warmup_cosine": "step", "one_cycle_lr": "step", "cosine_annealing_lr": "step"}
    assert config.interval == published.get(name, "epoch")


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_directory() / "optimizer").glob("*.yaml")))
def test_every_optimizer_trains(name: str) -> None:
    model, settings = model_with(f"optimizer={name}", "lr_scheduler=one_cycle_lr")
    take_one_step(model, settings["trainer"])
    assert type(model.trainer.optimizers[0]).__name__.lower() == name


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_directory() / "loss").glob("*.yaml")))
def test_every_loss_trains(name: str) -> None:
    model, settings = model_with(f"loss={name}", *(["loss.scale=2"] if name == "scaled_correlation" else []))
    logged, _ = take_one_step(model, settings["trainer"])
    assert all(torch.isfinite(torch.tensor(value)) for value in logged.values())


def test_a_loss_by_cell_type_gets_the_types_of_the_session() -> None:
    model, _ = model_with("loss=celltype_poisson")
    session, point = batch_of(model)
    output = model.eval()(point.inputs, session)
    kind, counts = torch.tensor([1, 1, 2]), torch.tensor([2, 1])
    expected = CelltypePoissonLoss3d()(output, point.targets, kind, counts, point.mask)
    torch.testing.assert_close(model.data_loss(output, session, point.targets, point.mask), expected)
    model.data_info["neurons_dict"] = {}
    with pytest.raises(ValueError, match=r"CelltypePoissonLoss3d needs the cell types of all sessions, \['a'\]"):
        model.data_loss(output, session, point.targets, point.mask)


@pytest.mark.parametrize("group", ["gru_core_readout", "conditioned_gru_core_readout"])
def test_recurrent_cores_train_on_every_parameter(group: str) -> None:
    sizes = (
        "model.hidden_channels=[4,6]",
        "model.core.spatial_kernel_sizes=[5,3]",
        "model.core.gru_kwargs.rec_channels=5",
    )
    settings = stage_slice(compose("hoefling_2024_core_readout_low_res", ()), "train")
    settings["model"] = stage_slice(compose("hoefling_2024_core_readout_low_res_gru", sizes), "train")["model"]
    if group.startswith("conditioned"):
        settings["model"]["core"] |= {"_target_": "coread.modules.core.gru_core.ConditionedGRUCore", "cond_dim": 4}
    torch.manual_seed(0)
    model = build_model(settings, sizes_of("hoefling_2024_core_readout_low_res"))
    assert is_model_causal(model)
    _, gradients = take_one_step(model, settings["trainer"])
    assert gradients
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert (gradient != 0).any(), name


def test_a_log_speed_per_session_reaches_the_convolutions() -> None:
    model, settings = model_with("model.core.learn_session_log_speed=true")
    speeds: list[nn.Parameter] = [p for name, p in model.core.named_parameters() if "log_speed" in name]
    assert len(speeds) == 1
    _, gradients = take_one_step(model, settings["trainer"])
    assert all(
        gradient.abs() > 0 for name, gradient in gradients.items() if "log_speed" in name and gradient is not None
    )
    with torch.no_grad():
        speeds[0].fill_(0.3)
    model.eval()
    stimulus: Tensor = torch.randn(model.stimulus_shape(model.lag + 3))
    torch.testing.assert_close(model(stimulus), model(stimulus, "a"))  # also where all sessions are asked for
    plain = model.readout(model.core(stimulus), data_key="a")
    assert not torch.equal(plain, model(stimulus, "a"))
