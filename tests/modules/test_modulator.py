"""The modulator: its equations, switches, the two gains and what they may depend on."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from coread.modules.modulator import CausalGain, HistoryStateGainModulator
from coread.modules.nonlinearities import OutputNonlinearity

N_NEURONS, N_TRIALS, LAGS, N_STATES = 6, 300, (1, 2, 5, 10, 30), 4
SWITCHES = ("include_history", "include_state", "include_gain", "per_neuron_gain_adjust")


def make(**settings: Any) -> HistoryStateGainModulator:
    torch.manual_seed(1)
    modulator = HistoryStateGainModulator(
        **{"nr_neurons": N_NEURONS, "nr_trials": N_TRIALS, "nr_behav_state": N_STATES} | settings
    )
    with torch.no_grad():
        for parameter in modulator.parameters():  # far from zero, so that every term counts
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return modulator


def context(n_samples: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "history": torch.rand(n_samples, N_NEURONS, len(LAGS), generator=generator),
        "state": torch.rand(n_samples, N_STATES, generator=generator),
        "time_order": torch.randint(0, N_TRIALS, (n_samples,), generator=generator),
    }


def history_of(responses: Tensor) -> Tensor:
    """Return means over the last l responses before every trial, with zeros before the first."""
    total = torch.cat([torch.zeros(1, responses.shape[1]), responses.cumsum(0)])
    now = torch.arange(len(responses))
    return torch.stack([(total[now] - total[(now - lag).clamp(min=0)]) / lag for lag in LAGS], dim=-1)


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=4)))
def test_every_part_is_a_switch(switches: tuple[bool, ...]) -> None:
    settings = dict(zip(SWITCHES, switches, strict=True))
    modulator, given = make(**settings), context()
    x = torch.randn(8, N_NEURONS)
    u = x
    if settings["include_history"]:
        u = u + (given["history"] * modulator.history_weights).sum(2) + modulator.history_bias
    if settings["include_state"]:
        u = u + F.elu(given["state"] @ modulator.state_encoder.weight.T + modulator.state_encoder.bias)
    expected = F.elu(u) + 1
    if settings["include_gain"]:
        gain = modulator.gain_over_time()[given["time_order"]][:, None]
        if settings["per_neuron_gain_adjust"]:
            coupling = F.elu(modulator.gain_coupling + modulator.coupling_offset) + 1
            gain = F.elu(coupling * (gain - 1)) + 1
        expected = gain * expected
    wanted = modulator.context_names
    assert wanted == tuple(name for name, on in zip(given, switches, strict=False) if on)
    torch.testing.assert_close(modulator(x, **{name: given[name] for name in wanted}), expected)
    parts = {"history_l1", "state_l1", "gain_differences", "gain_coupling_l1"}
    assert set(modulator.penalties()) == {
        part
        for part in parts
        if settings["include_" + part.split("_")[0]] and (part != "gain_coupling_l1" or switches[3])
    }


def test_penalties_are_those_of_the_published_objective() -> None:
    modulator = make(diff_reg=7.0, gain_adjust_alpha=0.2, alpha_hist=0.4, alpha_behav=0.6)
    expected = {
        "gain_differences": 7 * (modulator.own_gain[1:] - modulator.own_gain[:-1]).square().sum(),
        "gain_coupling_l1": 0.2 * modulator.gain_coupling.abs().sum(),
        "history_l1": 0.4 * modulator.history_weights.abs().sum(),
        "state_l1": 0.6 * modulator.state_encoder.weight.abs().sum(),
    }
    torch.testing.assert_close(modulator.penalties(), expected)
    torch.testing.assert_close(modulator.regularizer(), sum(expected.values()))
    assert make(diff_reg=0.0, gain_adjust_alpha=0.0, alpha_hist=0.0, alpha_behav=0.0).penalties() == {}


@pytest.mark.parametrize("published", [False, True])
def test_smoother_is_a_half_gaussian_of_past_ranks(published: bool) -> None:
    modulator = make(gain_kernel_std=30, published_behaviour=published)
    kernel = [math.exp(-(j**2) / 1800) for j in range(101)]
    gain = modulator.gain_over_time()
    parameters = modulator.own_gain.tolist()
    for rank in (0, 1, 20, 100, 299):
        terms = [(kernel[j], parameters[rank - j]) for j in range(min(rank, 100) + 1)]
        q = sum(weight * value for weight, value in terms)
        q /= sum(kernel) if published else sum(weight for weight, _ in terms)
        assert float(gain[rank].detach()) == pytest.approx(q + 1 if q > 0 else math.exp(q), rel=1e-5)


def test_a_constant_parameter_is_a_constant_gain_unless_published() -> None:
    for published, first in ((False, 1.5), (True, 1 + 0.5 * 0.0263)):
        modulator = make(published_behaviour=published)
        torch.nn.init.constant_(modulator.own_gain, 0.5)
        gain = modulator.gain_over_time()
        assert float(gain[0].detach()) == pytest.approx(first, rel=1e-3)
        torch.testing.assert_close(gain[100:], torch.full((200,), 1.5))


def test_smoother_finds_a_drift_also_in_trials_that_it_was_not_trained_on() -> None:
    generator = torch.Generator().manual_seed(3)
    drift = 1 + 0.5 * torch.sin(2 * torch.pi * torch.arange(400.0) / 173)
    drive = torch.randn(400, 40, generator=generator)
    responses = drift[:, None] * (F.elu(drive) + 1) * torch.empty(400, 40).exponential_(generator=generator)
    trained = torch.rand(400, generator=generator) < 0.8
    modulator = HistoryStateGainModulator(40, 400, include_history=False, include_state=False, diff_reg=1.0)
    optimizer = torch.optim.Adam(modulator.parameters(), lr=0.05)
    ranks = torch.arange(400)[trained]
    for _ in range(200):
        rate = modulator(drive[trained], time_order=ranks)
        loss = (rate - responses[trained] * torch.log(rate + 1e-12)).sum() + modulator.regularizer()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = modulator.gain_over_time().detach()
    assert float(torch.corrcoef(torch.stack([found[~trained], drift[~trained]]))[0, 1]) > 0.9


@pytest.mark.parametrize("published", [False, True])
def test_smoother_ignores_parameters_of_later_ranks(published: bool) -> None:
    modulator = make(published_behaviour=published)
    before = modulator.gain_over_time().detach()
    with torch.no_grad():
        modulator.own_gain[150:] += 1
    after = modulator.gain_over_time().detach()
    assert torch.equal(before[:150], after[:150])
    assert (before[150:] != after[150:]).all()


def test_causal_gain_of_a_trial_depends_on_earlier_responses_alone() -> None:
    """Also for trials that were trained on: the weights are fixed, and none belongs to a trial."""
    modulator = make(gain="causal")
    responses, x, given = torch.rand(N_TRIALS, N_NEURONS), torch.randn(N_TRIALS, N_NEURONS), context(N_TRIALS)
    changed = responses.clone()
    changed[120:] += 1
    before, after = (
        modulator(x, history=history_of(values), state=given["state"]).detach() for values in (responses, changed)
    )
    assert torch.equal(before[:121], after[:121])
    assert (before[121:] != after[121:]).any(1).all()
    assert modulator.context_names == ("history", "state")
    assert not any(N_TRIALS in parameter.shape for parameter in modulator.parameters())


def test_causal_gain_learns_a_drift_from_the_past() -> None:
    """Responses are a slow gain times noise: the gain of a trial, learned on one half, is found in the other."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(1200.0)
    drift = 1 + 0.5 * torch.sin(2 * torch.pi * time / 173)
    responses = drift[:, None] * torch.empty(1200, 40).exponential_(generator=generator)
    gain = CausalGain(40, len(LAGS), responses[:600].mean(0))
    history = history_of(responses)
    assert torch.equal(gain(history), torch.ones(1200))  # starts at no gain
    optimizer = torch.optim.Adam(gain.parameters(), lr=0.02)
    for _ in range(150):
        loss = (gain(history[:600])[:, None] - responses[:600]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(torch.corrcoef(torch.stack([gain(history)[600:].detach(), drift[600:]]))[0, 1]) > 0.9


def test_causal_gain_is_used_without_history_terms_and_has_a_penalty() -> None:
    modulator = make(gain="causal", include_history=False, include_state=False, per_neuron_gain_adjust=False)
    given, x = context(), torch.randn(8, N_NEURONS)
    assert modulator.context_names == ("history",)
    gain = modulator.causal_gain(given["history"])[:, None]
    torch.testing.assert_close(modulator(x, history=given["history"]), gain * (F.elu(x) + 1))
    torch.testing.assert_close(
        modulator.penalties(), {"gain_filter_l1": 0.3 * modulator.causal_gain.filter.abs().sum()}
    )


@pytest.mark.parametrize("gain", ["smoother", "causal"])
def test_every_parameter_gets_a_finite_gradient(gain: Any) -> None:
    modulator = make(gain=gain)
    given = context()
    if gain == "causal":
        given.pop("time_order")
    loss = modulator(torch.randn(8, N_NEURONS), **given).square().sum() + modulator.regularizer()
    loss.backward()
    for name, parameter in modulator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_another_nonlinearity_makes_the_rate() -> None:
    modulator = make(include_gain=False, include_state=False, nonlinearity=OutputNonlinearity("softplus", beta=0.07))
    x, history = torch.randn(8, N_NEURONS), context()["history"]
    u = x + (history * modulator.history_weights).sum(2) + modulator.history_bias
    torch.testing.assert_close(modulator(x, history=history), F.softplus(u, beta=0.07))


def test_published_states_of_parts_that_are_off_are_left_out() -> None:
    state = make().state_dict()
    assert "gain_kernel" not in state
    for name in SWITCHES:
        make(**{name: False}).load_state_dict(state)
    assert make(behav_state=False).context_names == ("history", "time_order")  # the published name of the switch


def test_what_is_missing_or_does_not_fit_is_named() -> None:
    modulator, given, x = make(), context(), torch.randn(8, N_NEURONS)
    with pytest.raises(ValueError, match=r"the modulator needs \['history', 'time_order'\]"):
        modulator(x, state=given["state"])
    with pytest.raises(ValueError, match=r"state must be of shape \(8, 4\) for this modulator, got \(3, 4\)"):
        modulator(x, **given | {"state": given["state"][:3]})
    with pytest.raises(ValueError, match=r"history must be of shape \(8, 6, 5\) for this modulator, got \(8, 6, 3\)"):
        modulator(x, **given | {"history": given["history"][..., :3]})
    with pytest.raises(ValueError, match="a session of 300 trials, got the rank 300"):
        modulator(x, **given | {"time_order": torch.full((8,), 300)})
    with pytest.raises(ValueError, match="gain 'online' is unknown"):
        make(gain="online")
    with pytest.raises(ValueError, match="needs the number of trials"):
        make(nr_trials=None)
