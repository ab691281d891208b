"""One training epoch with neuralpredictors 0.3.0: python train_neuralpredictors.py JOB.json.

The model is the SENSORIUM+ baseline, or Model 4 without its modulator. Two names that are gone from Python and scipy
are put back, and torchvision is a stub: the package imports them, these models do not use them.
"""

import collections
import collections.abc
import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import scipy.signal
import scipy.signal.windows
import torch

collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
scipy.signal.gaussian = scipy.signal.windows.gaussian  # type: ignore[attr-defined]
sys.modules["torchvision"] = types.ModuleType("torchvision")

from neuralpredictors.layers.cores.conv2d import Stacked2dCore  # noqa: E402
from neuralpredictors.layers.encoders.firing_rate import FiringRateEncoder  # noqa: E402
from neuralpredictors.layers.readouts.gaussian import FullGaussian2d  # noqa: E402
from neuralpredictors.layers.readouts.multi_readout import MultiReadoutBase  # noqa: E402
from neuralpredictors.layers.shifters.mlp import MLPShifter  # noqa: E402

KEY = "session"
MODELS = {
    "baseline": {
        "hidden_kern": 7,
        "gamma_input": 6.3831,
        "gamma_readout": 0.0076,
        "maps": (28, 56),
        "predictor": (1, 30),
    },
    "model4": {"hidden_kern": 10, "gamma_input": 9.8, "gamma_readout": 0.48, "maps": (31, 59), "predictor": (4, 20)},
}


def make_model(name: str, position_um: np.ndarray) -> torch.nn.Module:
    """Return the published network with behaviour and eye position."""
    settings = MODELS[name]
    core = Stacked2dCore(
        input_channels=4,
        hidden_channels=64,
        input_kern=9,
        hidden_kern=settings["hidden_kern"],
        layers=4,
        gamma_input=settings["gamma_input"],
        bias=False,
        momentum=0.9,
        pad_input=False,
        laplace_padding=None,
        input_regularizer="LaplaceL2norm",
        stack=-1,
        use_avg_reg=False,
        depth_separable=True,
    )
    readout = MultiReadoutBase(
        in_shape_dict={KEY: (64, *settings["maps"])},
        n_neurons_dict={KEY: len(position_um)},
        base_readout=FullGaussian2d,
        gamma_readout=settings["gamma_readout"],
        bias=True,
        init_mu_range=0.3,
        init_sigma=0.1,
        gauss_type="full",
        grid_mean_predictor={
            "hidden_layers": settings["predictor"][0],
            "hidden_features": settings["predictor"][1],
            "final_tanh": True,
        },
        source_grid=position_um[:, :2] / np.abs(position_um[:, :2]).max(),
    )
    shifter = MLPShifter([KEY], hidden_channels_shifter=5, shift_layers=3)
    return FiringRateEncoder(core, readout, shifter=shifter)


def main() -> None:
    """Train on every batch once and write the seconds of each."""
    job = json.loads(Path(sys.argv[1]).read_text())
    held = {
        name: np.load(Path(job["folder"]) / f"{name}.npy", allow_pickle=False)
        for name in ("images", "responses", "behaviour", "pupil_center", "position_um")
    }
    torch.manual_seed(0)
    model = make_model(job["model"], held.pop("position_um")).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.009)
    images = (torch.as_tensor(held["images"]).float() - 127.5) / 74.0
    behaviour, pupil, responses = (torch.as_tensor(held[name]) for name in ("behaviour", "pupil_center", "responses"))
    n_trials = len(images)
    seconds = []
    for chosen in torch.randperm(n_trials - job["validation"]).split(job["batch"]):
        start = time.perf_counter()
        planes = behaviour[chosen, :, None, None].expand(-1, -1, *images.shape[2:])
        inputs = torch.cat([images[chosen], planes], dim=1)
        predicted = model(inputs, data_key=KEY, pupil_center=pupil[chosen])
        loss = (predicted - responses[chosen] * torch.log(predicted + 1e-12)).sum()
        loss = (n_trials / len(chosen)) ** 0.5 * loss + model.regularizer(KEY)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    Path(job["output"]).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
