"""Modulators: how past responses, the state of the network and slow drifts change the response to an image.

One per session, between the readout's output and the rate (the entry "Model 4" to SENSORIUM 2022).
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from coread.modules.nonlinearities import OutputNonlinearity
from coread.modules.vmapped import computes_several

GainKind = Literal["smoother", "causal"]
GAIN_KINDS = ("smoother", "causal")
GAIN_TAPS = 101  # ranks that the smoother's kernel reaches back, the present one included
HISTORY = ("history_weights", "history_bias")
GAIN = ("own_gain", "gain_coupling", "coupling_offset")


class CausalGain(nn.Module):
    """Gain of a trial from what the population did before it: elu(q) + 1 with one learned filter for all trials.

    q = offset + sum_l filter_l (sum_n p_n h_nl / sum_n p_n m_n - 1), where h_nl is the mean response of neuron n over
    its last l available trials (the `history` regressor), m_n its mean over the training bins and p_n >= 0 learned
    weights that sum to 1. If the gain multiplies all responses, the bracket is its recent mean minus 1, and the filter
    says how far to trust it. It starts at gain 1.

    There is no parameter that belongs to a trial: once the weights are fixed, a gain depends on earlier responses
    alone, in training trials and in any others. It sees as far back as the history does (30 trials by default).

    Args:
        n_neurons: neurons of the session.
        n_history: filters of the history.
        mean_activity: mean response of every neuron over the training bins; by default 1.

    """

    mean_activity: Tensor

    def __init__(self, n_neurons: int, n_history: int, mean_activity: Float[Tensor, " neuron"] | None = None):
        super().__init__()
        self.filter = nn.Parameter(torch.zeros(n_history))
        self.loading = nn.Parameter(torch.zeros(n_neurons))
        self.offset = nn.Parameter(torch.zeros(1))
        mean = torch.ones(n_neurons) if mean_activity is None else torch.as_tensor(mean_activity, dtype=torch.float32)
        self.register_buffer("mean_activity", mean.clone())

    def forward(self, history: Float[Tensor, "sample neuron lag"]) -> Float[Tensor, " sample"]:
        """Return the gain of every trial."""
        weights = self.loading.softmax(0)
        expected = (weights * self.mean_activity).sum().clamp(min=1e-6)
        relative = torch.einsum("snl,n->sl", history, weights) / expected - 1
        return F.elu(relative @ self.filter + self.offset) + 1


class HistoryStateGainModulator(nn.Module):
    """Response to an image, shifted by history and state of the network and multiplied by a slow gain.

    With x the readout's output of neuron n, h its history, s the state and r the rank of the trial in time::

        u = x + sum_l h_nl w_nl + beta_n               include_history
        u = u + elu(S s + d)_n                         include_state
        y = g_rn (elu(u) + 1)                          include_gain

    g_rn = g_r, or elu(c_n (g_r - 1)) + 1 with c_n = elu(a_n + b) + 1 >= 0 if `per_neuron_gain_adjust`.

    `gain="smoother"` (published) has a parameter gamma per trial: g_r = elu(q_r) + 1 and q_r = sum_j w_j gamma_(r - j)
    with w_j proportional to exp(-j^2 / 2 std^2), j = 0 ... 100. The kernel looks back only, but the parameters are
    fitted to all training trials: the gain of a test trial is set also by training trials up to 100 ranks after it and
    by the smoothness. So it predicts in hindsight. At the first ranks, which have fewer than 101 terms, the weights are
    divided by their sum; with `published_behaviour` they are not, which pulls the gain there towards 1.
    `gain="causal"` is `CausalGain`: earlier responses alone.

    Args:
        nr_neurons: neurons of the session.
        nr_trials: trials of the session, of all tiers; for the smoother.
        include_history: see above.
        nr_history: filters of the history; as many as the lags of the regressor.
        include_state: see above; the published name is `behav_state`, which wins if it is given.
        nr_behav_state: components of the state.
        include_gain: see above.
        gain: "smoother" or "causal".
        gain_kernel_std: width of the kernel, in ranks.
        diff_reg: weight of the squared differences of gamma between neighbouring ranks.
        per_neuron_gain_adjust: see above.
        gain_adjust_alpha: weight of the absolute a_n.
        alpha_hist: weight of the absolute w, and of the causal gain's absolute filter.
        alpha_behav: weight of the absolute S.
        mean_activity: mean response of every neuron over the training bins, for the causal gain.
        nonlinearity: from u to the rate; by default elu(u) + 1.
        published_behaviour: see above.

    Raises ValueError for an unknown kind of gain, or a smoother without a number of trials.

    """

    gain_kernel: Tensor

    def __init__(
        self,
        nr_neurons: int,
        nr_trials: int | None = None,
        include_history: bool = True,
        nr_history: int = 5,
        include_state: bool = True,
        nr_behav_state: int = 10,
        include_gain: bool = True,
        gain: GainKind = "smoother",
        gain_kernel_std: float = 30.0,
        diff_reg: float = 100.0,
        per_neuron_gain_adjust: bool = True,
        gain_adjust_alpha: float = 0.3,
        alpha_hist: float = 0.3,
        alpha_behav: float = 0.3,
        behav_state: bool | None = None,
        mean_activity: Float[Tensor, " neuron"] | None = None,
        nonlinearity: nn.Module | None = None,
        published_behaviour: bool = False,
    ):
        super().__init__()
        if gain not in GAIN_KINDS:
            raise ValueError(f"gain {gain!r} is unknown, expected one of {list(GAIN_KINDS)}")
        self.include_history, self.include_gain = include_history, include_gain
        self.include_state = include_state if behav_state is None else behav_state
        self.has_smoother = include_gain and gain == "smoother"
        self.has_causal_gain = include_gain and gain == "causal"
        self.has_coupling = include_gain and per_neuron_gain_adjust
        self.diff_reg, self.gain_adjust_alpha = diff_reg, gain_adjust_alpha
        self.alpha_hist, self.alpha_behav = alpha_hist, alpha_behav
        self.published_behaviour = published_behaviour
        self.context_sizes = {"history": (nr_neurons, nr_history), "state": (nr_behav_state,), "time_order": ()}
        self.nonlinearity = OutputNonlinearity() if nonlinearity is None else nonlinearity
        if include_history:
            limit = math.sqrt(1 / nr_history)
            self.history_weights = nn.Parameter(torch.empty(nr_neurons, nr_history).uniform_(-limit, limit))
            self.history_bias = nn.Parameter(torch.empty(nr_neurons).uniform_(-limit, limit))
        if self.include_state:
            self.state_encoder = nn.Linear(nr_behav_state, nr_neurons)
        if self.has_smoother:
            self._make_smoother(nr_trials, gain_kernel_std)
        if self.has_causal_gain:
            self.causal_gain = CausalGain(nr_neurons, nr_history, mean_activity)
        if self.has_coupling:
            limit = math.sqrt(1 / nr_neurons)
            self.gain_coupling = nn.Parameter(torch.empty(nr_neurons).uniform_(-limit, limit))
            self.coupling_offset = nn.Parameter(torch.zeros(1))

    def _make_smoother(self, nr_trials: int | None, kernel_std: float) -> None:
        if not nr_trials or nr_trials < 1 or kernel_std <= 0:
            raise ValueError(
                f"gain 'smoother' needs the number of trials and a kernel width above 0, got {nr_trials}, {kernel_std}"
            )
        limit = math.sqrt(1 / nr_trials)
        self.own_gain = nn.Parameter(torch.empty(nr_trials).uniform_(-limit, limit))
        kernel = torch.exp(-torch.arange(GAIN_TAPS).double().square() / (2 * kernel_std**2))
        # published states do not hold the kernel
        self.register_buffer("gain_kernel", (kernel / kernel.sum()).float(), persistent=False)

    @property
    def context_names(self) -> tuple[str, ...]:
        """What `forward` wants beside the readout's output."""
        wanted = {
            "history": self.include_history or self.has_causal_gain,
            "state": self.include_state,
            "time_order": self.has_smoother,
        }
        return tuple(name for name, is_wanted in wanted.items() if is_wanted)

    def forward(
        self,
        x: Float[Tensor, "sample neuron"],
        history: Float[Tensor, "sample neuron lag"] | None = None,
        state: Float[Tensor, "sample component"] | None = None,
        time_order: Int[Tensor, "sample *one"] | None = None,
    ) -> Float[Tensor, "sample neuron"]:
        """Return the rates of readout outputs `x`; raises ValueError for context that is missing or misshapen."""
        self._check(x, {"history": history, "state": state, "time_order": time_order})
        if self.include_history and history is not None:
            x = x + torch.einsum("snl,nl->sn", history, self.history_weights) + self.history_bias
        if self.include_state and state is not None:
            x = x + F.elu(self.state_encoder(state))
        rate = self.nonlinearity(x)
        if self.has_smoother and time_order is not None:
            return self.coupled(self.gain_of_ranks(time_order.reshape(len(x)))) * rate
        if self.has_causal_gain and history is not None:
            return self.coupled(self.causal_gain(history)) * rate
        return rate

    def _check(self, x: Tensor, context: dict[str, Tensor | None]) -> None:
        missing = [name for name in self.context_names if context[name] is None]
        if missing:
            raise ValueError(f"the modulator needs {missing} beside the image")
        for name in self.context_names:
            value: Any = context[name]
            expected = (len(x), *self.context_sizes[name])
            if tuple(value.shape) != expected and not (name == "time_order" and value.numel() == len(x)):
                raise ValueError(f"{name} must be of shape {expected} for this modulator, got {tuple(value.shape)}")

    def gain_of_ranks(self, time_order: Int[Tensor, " sample"]) -> Float[Tensor, " sample"]:
        """Return the smoother's gain at ranks in time, 1 being no change; raises ValueError for a rank it has not."""
        # elsewhere it would make every step wait for the device, which itself refuses what is out of range
        can_look = time_order.device.type == "cpu" and not computes_several()
        if can_look and len(time_order) and int(time_order.max()) >= len(self.own_gain):
            raise ValueError(
                f"the gain is of a session of {len(self.own_gain)} trials, got the rank {int(time_order.max())} "
                "(counted from 0)"
            )
        taps = time_order[:, None] - torch.arange(GAIN_TAPS, device=time_order.device)
        weights = self.gain_kernel * (taps >= 0)
        if not self.published_behaviour:
            weights = weights / weights.sum(1, keepdim=True)
        return F.elu((weights * self.own_gain[taps.clamp(min=0)]).sum(1)) + 1

    def gain_over_time(self) -> Float[Tensor, " trial"]:
        """Return the smoother's gain at every rank of the session."""
        return self.gain_of_ranks(torch.arange(len(self.own_gain), device=self.own_gain.device))

    def coupling(self) -> Float[Tensor, " neuron"]:
        """Return by how much the gain acts on every neuron, at least 0."""
        return F.elu(self.gain_coupling + self.coupling_offset) + 1

    def coupled(self, gain: Float[Tensor, " sample"]) -> Float[Tensor, "sample #neuron"]:
        """Return the gain of every neuron."""
        if not self.has_coupling:
            return gain[:, None]
        return F.elu(self.coupling() * (gain[:, None] - 1)) + 1

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted penalties whose weight is not zero, by name."""
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.has_smoother:
            terms["gain_differences"] = (self.diff_reg, self.own_gain.diff().square().sum())
        if self.has_causal_gain:
            terms["gain_filter_l1"] = (self.alpha_hist, self.causal_gain.filter.abs().sum())
        if self.has_coupling:
            terms["gain_coupling_l1"] = (self.gain_adjust_alpha, self.gain_coupling.abs().sum())
        if self.include_history:
            terms["history_l1"] = (self.alpha_hist, self.history_weights.abs().sum())
        if self.include_state:
            terms["state_l1"] = (self.alpha_behav, self.state_encoder.weight.abs().sum())
        return {name: weight * value for name, (weight, value) in terms.items() if weight}

    def regularizer(self) -> Float[Tensor, ""]:
        """Return the penalty to add to the loss of a batch: the sum of the terms."""
        terms = self.penalties()
        return torch.stack(list(terms.values())).sum() if terms else torch.zeros(())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Leave out what published modulators keep of parts that are switched off."""
        unused = [] if self.include_history else list(HISTORY)
        unused += [] if self.include_gain else list(GAIN)
        unused += [] if self.has_coupling else list(GAIN[1:])
        unused += [] if self.include_state else ["state_encoder.weight", "state_encoder.bias"]
        for name in unused:
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)
