"""Make a model, or optimise stimuli neuron by neuron as openretina's examples do; runs in the peer's environment."""

import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from openretina.insilico.stimulus_optimization.objective import IncreaseObjective, SliceMeanReducer
from openretina.insilico.stimulus_optimization.optimization_stopper import OptimizationStopper
from openretina.insilico.stimulus_optimization.optimizer import optimize_stimulus
from openretina.insilico.stimulus_optimization.regularizer import ChangeNormJointlyClipRangeSeparately
from openretina.models.core_readout import UnifiedCoreReadout

CORE = {
    "_target_": "openretina.modules.core.base_core.SimpleCoreWrapper",
    "_convert_": "object",
    "gamma_input": 0.0,
    "gamma_hidden": 0.0,
    "gamma_in_sparse": 0.0,
    "gamma_temporal": 40.0,
    "input_padding": 0,
    "convolution_type": "custom_separable",
    "cut_first_n_frames": 0,
    "dropout_rate": 0.0,
    "maxpool_every_n_layers": None,
    "downsample_input_kernel_size": None,
    "color_squashing_weights": None,
}
READOUT = {
    "_target_": "openretina.modules.readout.multi_readout.MultiGaussianMaskReadout",
    "_convert_": "object",
    "scale": True,
    "bias": True,
    "gaussian_mean_scale": 6.0,
    "gaussian_var_scale": 4.0,
    "positive": True,
    "mask_l1_reg": 1.0,
    "feature_weights_l1_reg": 1.0,
    "readout_reg_avg": False,
}


def main() -> None:
    """Do what the job asks for."""
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["action"] == "make":
        make(job)
        return
    model = build(job)
    model.load_state_dict(torch.load(job["checkpoint"], weights_only=True)["state_dict"])
    model.to(job["device"]).eval()
    optimize(job, model, 1)
    started, cpu = time.perf_counter(), time.process_time()
    stimuli = optimize(job, model, job["n_neurons"])
    row = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    np.save(Path(job["checkpoint"]).with_name("stimuli.npy"), stimuli)
    Path(job["output"]).write_text(json.dumps(row))


def build(job: dict) -> UnifiedCoreReadout:
    """Return the architecture of a job."""
    neurons = {"session": job["n_model_neurons"]}
    core = OmegaConf.create(CORE | job["core"] | {"channels": [job["in_shape"][0], *job["hidden_channels"]]})
    info = {"input_shape": [job["in_shape"][0], *job["in_shape"][2:]], "n_neurons_dict": neurons}
    return UnifiedCoreReadout(
        job["in_shape"], neurons, core, OmegaConf.create(READOUT), job["hidden_channels"], data_info=info
    )


def make(job: dict) -> None:
    """Save a model whose neurons respond and have compact masks all over the frame, as the published trainer does."""
    torch.manual_seed(job["seed"])
    model = build(job)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("weight_spatial", "sin_weights", "cos_weights")):
                value.normal_(0.0, 0.1)
        readout = model.readout["session"]
        readout.mask_mean.uniform_(-0.12, 0.12)
        readout.mask_log_var.fill_(job["mask_log_var"])
        readout.features.normal_(0.0, 0.3)
    hyper = {
        "in_shape": job["in_shape"],
        "n_neurons_dict": {"session": job["n_model_neurons"]},
        "core": CORE | job["core"] | {"channels": [job["in_shape"][0], *job["hidden_channels"]]},
        "readout": READOUT,
        "hidden_channels": job["hidden_channels"],
        "data_info": {"input_shape": [job["in_shape"][0], *job["in_shape"][2:]]},
    }
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": hyper}, job["checkpoint"])


def optimize(job: dict, model: UnifiedCoreReadout, n_neurons: int) -> np.ndarray:
    """Return the stimuli (neuron, channel, time, height, width), one neuron after the other."""
    noise = torch.randn(model.stimulus_shape(job["n_frames"]), generator=torch.Generator().manual_seed(job["seed"]))
    limits = [tuple(job["limits"])] * job["in_shape"][0]
    found = []
    for neuron in range(n_neurons):
        stimulus = (job["noise_std"] * noise).to(job["device"]).requires_grad_()
        optimize_stimulus(
            stimulus,
            partial(torch.optim.SGD, lr=job["lr"]),
            IncreaseObjective(model, neuron, "session", SliceMeanReducer(0, *job["window"])),
            OptimizationStopper(max_iterations=job["n_steps"]),
            stimulus_postprocessor=ChangeNormJointlyClipRangeSeparately(limits, job["norm"]),
        )
        found.append(stimulus[0].cpu().numpy())
    return np.stack(found)


if __name__ == "__main__":
    main()
