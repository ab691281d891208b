"""Images of what model neurons are sensitive to."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32

from coread.insilico.receptive_fields import response_gradient
from coread.insilico.separable import separate

if TYPE_CHECKING:
    from coread.models.core_readout import BaseCoreReadout

SMOOTHING_PX = 1.0


def visualize_receptive_fields(
    model: "BaseCoreReadout", resolution: Sequence[int] | None = None, data_key: str | None = None
) -> Float32[np.ndarray, "neuron height width"]:
    """Return one image per neuron: the spatial receptive field at a grey screen, signed (positive = ON), peak 1.

    Neurons are those of `data_key`, or of all sessions in the readout's order. `resolution (height, width)` resizes the
    images bilinearly; None keeps the model's pixels. Of several stimulus channels the strongest is shown.
    """
    sessions = [data_key] if data_key is not None else list(model.readout.readout_keys())
    device = next(model.parameters()).device
    grey = torch.zeros(model.stimulus_shape(model.lag + 1), device=device)
    images = []
    for session in sessions:
        n_neurons = int(model.data_info["n_neurons_dict"][session])
        parts = separate(response_gradient(model, session, grey, n_neurons).cpu().numpy(), SMOOTHING_PX)
        spatial = parts.spatial[np.arange(n_neurons), parts.channel] * parts.polarity[:, None, None]
        images.append(spatial / np.maximum(np.abs(spatial).max(axis=(1, 2), keepdims=True), 1e-12))
    stacked = torch.as_tensor(np.concatenate(images), dtype=torch.float32)
    if resolution is not None:
        size = (int(resolution[0]), int(resolution[1]))
        stacked = torch.nn.functional.interpolate(stacked[None], size, mode="bilinear", align_corners=False)[0]
    return stacked.numpy()
