"""Responses of single neurons from patches of the stimulus equal those of the whole model, gradients included."""

from typing import Any

import pytest
import torch

from coread.insilico.frozen_model import frozen
from coread.insilico.local_core import CorePatches
from coread.insilico.local_response import SIDES, LocalPopulation
from coread.insilico.pooled_readout import mask_boxes, pooled_readout
from coread.insilico.population import Population
from coread.models.core_readout import UnifiedCoreReadout
from coread.models.image_core_readout import ImageCoreReadout
from tests.insilico.stimulus_optimization.small_models import READOUTS, SESSION, core_model, known_model

FRAMES = 14
CORES: dict[str, dict[str, Any]] = {
    "valid then padded": {},
    "padded": {"input_padding": True},
    "even kernels, padded": {"input_padding": True, "spatial_kernel_sizes": [4, 6]},
    "wide padding": {"input_padding": (0, 4, 3), "hidden_padding": (0, 3, 2)},
    "pooled": {"maxpool_every_n_layers": 2, "input_padding": True},
    "downsampled": {"downsample_input_kernel_size": [1, 2, 2], "input_padding": True},
    "grey": {"color_squashing_weights": [0.3, 0.9]},
    "cut": {"cut_first_n_frames": 2},
    "separable": {"convolution_type": "separable", "input_padding": True},
    "full": {"convolution_type": "full", "input_padding": True},
    "time independent": {"convolution_type": "time_independent", "input_padding": True},
    "published padding in time": {"published_behaviour": True, "input_padding": True},
    "published separable": {"published_behaviour": True, "convolution_type": "separable", "input_padding": True},
    "log speeds": {"learn_session_log_speed": True},
}


def assert_equal_to_whole(
    population: Population, window: tuple[int, int], tolerance: float, atol: float, *, frames: int = FRAMES
) -> LocalPopulation:
    """Compare responses and gradients of all neurons, one per item, with those of the whole model."""
    neurons = torch.arange(population.n_neurons)
    whole = torch.randn(len(neurons), population.frame_shape[0], frames, *population.frame_shape[1:])
    whole.requires_grad_()
    responses = LocalPopulation(population, frames, tolerance=tolerance, window=window)
    weights = torch.linspace(0.5, 1.5, window[1])
    with frozen(*population.models):
        for items in responses.groups(neurons[:, None]):
            own = responses.of(neurons[items][:, None])
            local = own(own.places.cut(whole[items]))
            (gradient,) = torch.autograd.grad((local * weights).sum(), whole)
            full = sum(
                responses.full(member, responses.shown_to(member, whole[items])) * scale
                for member, scale in enumerate(responses.scales)
            )
            mine = full[torch.arange(len(items)), :, items] / population.n_members  # type: ignore[index]
            (expected,) = torch.autograd.grad((mine * weights).sum(), whole)
            assert mine.std() > 1e-3
            torch.testing.assert_close(local, mine, rtol=1e-4, atol=atol)
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=atol)
    return responses


@pytest.mark.parametrize("core", CORES.values(), ids=list(CORES))
def test_cores(core: dict[str, Any]) -> None:
    population = Population([core_model("MultiSampledGaussianReadout", core=core)], SESSION)
    n_out = FRAMES - population.lag
    responses = assert_equal_to_whole(population, (0, n_out), 0.0, 1e-5)
    assert responses.whole_because is None
    assert_equal_to_whole(population, (n_out - 3, 2), 0.0, 1e-5)


@pytest.mark.parametrize("readout", list(READOUTS))
def test_readouts(readout: str) -> None:
    model = core_model(readout, core={"input_padding": True})
    assert assert_equal_to_whole(Population([model], SESSION), (2, 3), 1e-6, 1e-4).whole_because is None


def test_cloned_readouts() -> None:
    model = core_model("MultiGaussianMaskReadout", clone_readout=True)
    model.readout.add_sessions({"b": 6})
    with torch.no_grad():
        model.readout["b"].alpha.uniform_(0.5, 2.0)
        model.readout["b"].beta.uniform_(-0.5, 2.0)
    model.data_info["n_neurons_dict"]["b"] = 6
    assert assert_equal_to_whole(Population([model], "b"), (2, 3), 1e-6, 1e-4).whole_because is None


def test_patches_are_small_and_only_the_frames_of_the_window() -> None:
    population = Population([core_model("MultiSampledGaussianReadout", core={"input_padding": True})], SESSION)
    responses = LocalPopulation(population, FRAMES, tolerance=1e-3, window=(4, 2))
    own = responses.of(torch.zeros(1, 1, dtype=torch.long))
    assert own.places.in_length == (2 + population.lag, 2 + 4 + 2, 2 + 4 + 2)  # two pixels around a point, 5 and 3 wide
    pasted = own.places.paste(torch.ones(1, 2, *own.places.in_length))
    assert pasted.shape == (1, 2, FRAMES, *population.frame_shape[1:])
    assert not pasted[:, :, :4].any()
    again = own.places.cut(pasted)
    torch.testing.assert_close(again, own.places.clean(torch.ones_like(again)))


def test_tolerance_bounds_what_a_mask_has_outside_its_box() -> None:
    readout = pooled_readout(core_model("MultiGaussianMaskReadout").readout[SESSION])
    assert readout is not None
    for tolerance in (1e-1, 1e-2, 1e-4):
        boxes = mask_boxes(readout, tolerance)
        for mask, (y, x), (height, width) in zip(readout.mask, boxes.start, boxes.size, strict=True):
            inside = mask[y : y + height, x : x + width].sum()
            assert 1 - tolerance <= inside / mask.sum() <= 1 + 1e-6
    assert (mask_boxes(readout, 1e-1).size.prod(1) < mask_boxes(readout, 1e-4).size.prod(1)).all()


def test_what_lies_beyond_the_patch_sees_grey() -> None:
    """With a coarse tolerance the response to grey is still exact."""
    population = Population([core_model("MultiGaussianMaskReadout", core={"input_padding": True})], SESSION)
    responses = LocalPopulation(population, FRAMES, tolerance=0.3)
    grey = torch.zeros(1, *(2, FRAMES), *population.frame_shape[1:])
    expected = population.respond(grey)[0, 0]
    with frozen(*population.models):
        for neuron in range(population.n_neurons):
            own = responses.of(torch.tensor([[neuron]]))
            assert own.places.in_length[1:] < population.frame_shape[1:]
            torch.testing.assert_close(own(own.places.cut(grey))[0], expected[:, neuron], rtol=1e-4, atol=1e-5)


def test_a_neuron_has_the_same_patch_in_any_company() -> None:
    population = Population([core_model("MultiGaussianMaskReadout", n_neurons=12)], SESSION)
    with torch.no_grad():
        population.models[0].readout[SESSION].mask_log_var.uniform_(-0.9, 0.0)
    responses = LocalPopulation(population, FRAMES, tolerance=1e-3)
    neurons = torch.arange(12)[:, None]
    groups = responses.groups(neurons)
    assert len(groups) > 1
    assert sorted(torch.cat(groups).tolist()) == list(range(12))
    for items in groups:
        together = responses.of(neurons[items]).places
        alone = responses.of(neurons[items[:1]]).places
        assert isinstance(together, CorePatches)
        assert isinstance(alone, CorePatches)
        assert together.in_length == alone.in_length
        assert torch.equal(together.in_starts[:1], alone.in_starts)
    assert set(SIDES) >= {int(side) for side in responses._sides(responses._boxes)}


def test_groups_of_neurons_and_shares() -> None:
    population = Population([core_model("MultiSampledGaussianReadout", core={"input_padding": True})], SESSION)
    responses = LocalPopulation(population, FRAMES, tolerance=0.0)
    stimulus = torch.randn(2, 2, FRAMES, *population.frame_shape[1:])
    neurons, shares = torch.tensor([[0, 3, 5], [1, 2, 2]]), torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]])
    full = population.respond(stimulus)[0]
    with frozen(*population.models):
        own = responses.of(neurons, shares)
        weighted = own(own.places.cut(stimulus))
        mean = responses.of(neurons[:1])
        torch.testing.assert_close(
            mean(mean.places.cut(stimulus[:1]))[0], full[0][:, [0, 3, 5]].mean(1), rtol=1e-4, atol=1e-5
        )
    expected = torch.stack([(full[0][:, neurons[0]] * shares[0]).sum(1), full[1][:, [1, 2]].mean(1)])
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=1e-5)


def test_ensembles_of_members_with_own_normalisation_and_scales() -> None:
    infos = [
        {"stim_mean": 100.0, "stim_std": 40.0, "response_scale": {SESSION: torch.linspace(0.5, 2.0, 6)}},
        {"stim_mean": 103.0, "stim_std": 38.0, "response_scale": {SESSION: torch.linspace(2.0, 0.7, 6)}},
    ]
    members = [
        core_model("MultiSampledGaussianReadout", seed=seed, info=info, core={"input_padding": True})
        for seed, info in enumerate(infos)
    ]
    population = Population(members, SESSION)
    responses = assert_equal_to_whole(population, (1, 3), 0.0, 1e-4)
    stimulus = 0.3 * torch.randn(1, 2, FRAMES, *population.frame_shape[1:])
    with frozen(*members):
        own = responses.of(torch.tensor([[2]]))
        each = own.of_members(own.places.cut(stimulus))
    torch.testing.assert_close(each[:, 0], population.respond(stimulus)[:, 0, 1:4, 2], rtol=1e-4, atol=1e-4)


def test_other_models_are_computed_whole_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    known = assert_equal_to_whole(Population([known_model()], SESSION), (1, 3), 1e-3, 1e-5)
    assert known.whole_because is not None
    assert "no weighted sums" in known.whole_because
    assert "whole stimulus is computed" in caplog.text
    gru = UnifiedCoreReadout(
        (2, 20, 15, 13),
        {SESSION: 3},
        {
            "_target_": "coread.modules.core.gru_core.ConvGRUCore",
            "temporal_kernel_sizes": [3],
            "spatial_kernel_sizes": [5],
            "use_gru": True,
            "gru_kwargs": {"rec_channels": 4, "input_kern": 3, "rec_kern": 3},
        },
        {"_target_": "coread.modules.readout.multi_readout.MultiGaussianMaskReadout"},
        [4],
        data_info={"input_shape": [2, 15, 13], "n_neurons_dict": {SESSION: 3}},
    )
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    responses = assert_equal_to_whole(Population([gru], SESSION), (1, 3), 1e-3, 1e-5)
    assert responses.whole_because == "ConvGRUCore is no chain of convolutions"
    kernels = [core_model("MultiSampledGaussianReadout", core={"spatial_kernel_sizes": [n, 3]}) for n in (5, 3)]
    different = assert_equal_to_whole(Population(kernels, SESSION), (1, 3), 0.0, 1e-5)
    assert different.whole_because == "the members have different kernels or poolings"


@pytest.mark.parametrize("settings", [{}, {"pad_input": True}, {"depth_separable": False, "bias": True}])
def test_image_models_with_behaviour_and_eye(settings: dict[str, Any]) -> None:
    core = {
        "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
        "hidden_channels": 5,
        "input_kern": 5,
        "hidden_kern": 3,
        "layers": 3,
        "stack": -1,
        "depth_separable": True,
    }
    context = {"behaviour": torch.tensor([0.3, -0.2]), "pupil_center": torch.tensor([0.4, 0.1])}
    model = ImageCoreReadout(
        (1, 1, 20, 24),
        {SESSION: 8},
        core | settings,
        {
            "_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout",
            "init_mu_range": 0.9,
            "nonlinearity_function": "identity",
        },
        shifter={"_target_": "coread.modules.shifter.MLPShifter", "init_scale": 0.5},
        behaviour_channels=2,
        data_info={
            "input_shape": [1, 20, 24],
            "n_neurons_dict": {SESSION: 8},
            "typical_context": {SESSION: context},
        },
    )
    with torch.no_grad():
        for parameter in model.core.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    population = Population([model], SESSION)
    responses = assert_equal_to_whole(population, (0, 1), 0.0, 1e-5, frames=1)
    assert responses.whole_because is None
    assert responses.of(torch.zeros(1, 1, dtype=torch.long)).places.in_length[1:] < (20, 24)
    assert_equal_to_whole(population, (1, 2), 0.0, 1e-5, frames=3)


def test_bad_windows_are_named() -> None:
    population = Population([core_model()], SESSION)
    with pytest.raises(ValueError, match=r"window \(4, 9\) is not within the 9 bins"):
        LocalPopulation(population, FRAMES, tolerance=0.0, window=(4, 9))
    with pytest.raises(ValueError, match="lag of 5"):
        LocalPopulation(population, 5, tolerance=0.0)
