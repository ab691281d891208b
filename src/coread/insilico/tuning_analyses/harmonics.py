"""Mean and modulation of responses at the frequency of a stimulus."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def harmonic_weights(
    frequency_hz: Float[np.ndarray, "stimulus"], n_bins: int, rate_hz: float
) -> Float[Tensor, "stimulus 3 time"]:
    """Return weights over time of the mean, cosine and sine in a least-squares fit at each stimulus' frequency.

    Only the last bins count, as many as make up the largest whole number of cycles; for a frequency of 0 all bins, with
    no modulation. Raises ValueError for a cycle longer than `n_bins`.
    """
    values, which = np.unique(frequency_hz, return_inverse=True)
    weights = np.stack([_weights(value, n_bins, rate_hz) for value in values])
    return torch.from_numpy(weights[which])


def _weights(frequency_hz: float, n_bins: int, rate_hz: float) -> Float[np.ndarray, "3 time"]:
    weights = np.zeros((3, n_bins))
    if frequency_hz == 0:
        weights[0] = 1 / n_bins
        return weights
    period = rate_hz / frequency_hz
    n_used = round(np.floor(n_bins / period + 1e-9) * period)
    if n_used < 2 or n_used > n_bins:
        raise ValueError(f"a cycle of {frequency_hz:g} Hz is longer than {n_bins} bins at {rate_hz:g} Hz")
    phase = 2 * np.pi * frequency_hz / rate_hz * np.arange(n_bins - n_used, n_bins)
    design = np.stack([np.ones(n_used), np.cos(phase), np.sin(phase)], axis=1)
    weights[:, n_bins - n_used :] = np.linalg.pinv(design)
    return weights


def mean_and_modulation(
    responses: Float[Tensor, "row stimulus time neuron"], weights: Float[Tensor, "stimulus 3 time"]
) -> Float[Tensor, "row stimulus neuron 2"]:
    """Return F0, the mean response, and F1, the amplitude of its modulation at the stimulus' frequency."""
    last = responses[:, :, -weights.shape[-1] :]
    parts = torch.einsum("skt,rstn->rsnk", weights.to(last), last)
    return torch.stack([parts[..., 0], torch.hypot(parts[..., 1], parts[..., 2])], dim=-1)
