"""Fabricated checkpoints in the layout that the published trainer writes, and crafted ones that would run a command."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from coread.models import UnifiedCoreReadout

OURS = "coread.modules.readout.multi_readout"
THEIRS = "openretina.modules.readout.multi_readout"
SIZES = {"session_1_ventral1_20200226": 3, "session_2_ventral2_20200626": 2}
# the architecture and the tuned settings of the released hoefling_2024_low_res
IN_SHAPE = (2, 150, 18, 16)
HIDDEN = (16, 16)
CORE = {
    "temporal_kernel_sizes": [21, 11],
    "spatial_kernel_sizes": [11, 5],
    "gamma_input": 0.2701,
    "gamma_hidden": 0.1682,
    "gamma_in_sparse": 0.1256,
    "gamma_temporal": 58.97,
    "dropout_rate": 0.2824,
    "cut_first_n_frames": 0,
    "maxpool_every_n_layers": None,
    "downsample_input_kernel_size": None,
    "input_padding": False,
    "hidden_padding": [0, 2, 2],
    "color_squashing_weights": None,
    "convolution_type": "custom_separable",
}
READOUTS: dict[str, dict[str, Any]] = {
    "MultiSampledGaussianReadout": {
        "bias": True,
        "init_mu_range": 0.1833,
        "init_sigma_range": 0.2416,
        "batch_sample": True,
        "align_corners": True,
        "gauss_type": "full",
        "grid_mean_predictor": None,
        "shared_features": None,
        "shared_grid": None,
        "init_grid": None,
        "gamma": 0.967,
        "reg_avg": False,
    },
    "MultiGaussianMaskReadout": {
        "scale": True,
        "bias": True,
        "gaussian_mean_scale": 6.0,
        "gaussian_var_scale": 4.0,
        "positive": True,
        "mask_l1_reg": 1.0,
        "feature_weights_l1_reg": 1.0,
        "readout_reg_avg": False,
    },
}


def trained_model(readout: str = "MultiSampledGaussianReadout", **core: Any) -> UnifiedCoreReadout:
    """Return a model of the released architecture whose weights and statistics are no start values."""
    target = "coread.modules.core.base_core.SimpleCoreWrapper"
    model = UnifiedCoreReadout(
        IN_SHAPE,
        SIZES,
        {"_target_": target, **CORE, "published_behaviour": True, **core},
        {"_target_": f"{OURS}.{readout}", **READOUTS[readout]},
        HIDDEN,
        data_info={"input_shape": [2, 18, 16]},
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.endswith((".grid", ".filter", "_log_speed_default")):
                scale = 0.05 if "running_var" not in name else 0.0
                value.add_(scale * torch.randn(value.shape, generator=generator))
    return model.eval()


def published_content(model: UnifiedCoreReadout, readout: str = "MultiSampledGaussianReadout", **core: Any) -> Any:
    """Return what the published trainer would have saved of a model, nodes of its config with all their parents."""
    config = OmegaConf.create(
        {
            "hidden_padding": [0, 2, 2],
            "seed": "${oc.env:COREAD_NO_SUCH_VARIABLE}",  # a resolver that nothing needs
            "model": {
                "core": {
                    "_target_": "openretina.modules.core.base_core.SimpleCoreWrapper",
                    "_convert_": "object",
                    **CORE,
                    "hidden_padding": "${hidden_padding}",
                    "channels": [2, *HIDDEN],
                    **core,
                },
                "readout": {"_target_": f"{THEIRS}.{readout}", "_convert_": "object", **READOUTS[readout]},
                "n_neurons_dict": SIZES,
            },
        }
    )
    return {
        "epoch": 12,
        "global_step": 345,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": model.state_dict(),
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.4), "best_model_path": "a=0.4.ckpt"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(345.0)}}, "param_groups": []}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "core": config.model.core,
            "readout": config.model.readout,
            "learning_rate": 0.03,
            "loss": None,
            "evaluation_loss": None,
            "data_info": {
                "n_neurons_dict": dict(SIZES),
                "mean_activity_dict": {session: torch.rand(count) for session, count in SIZES.items()},
                "input_shape": (2, 18, 16),
                "sessions_kwargs": {name: {"group_assignment": np.arange(count)} for name, count in SIZES.items()},
                "stim_mean": float("nan"),
                "stim_std": float("nan"),
                "pretrained_performance": {session: torch.rand(count) for session, count in SIZES.items()},
            },
            "in_shape": IN_SHAPE,
            "n_neurons_dict": config.model.n_neurons_dict,
            "hidden_channels": HIDDEN,
            "optimizer": DictConfig({"_target_": "torch.optim.AdamW", "lr": "${model.learning_rate}"}),
            "lr_scheduler": None,
        },
    }


def write_checkpoint(path: Path, content: Any) -> Path:
    """Save a checkpoint as the published trainer does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class Asks:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Return what the pickle calls."""
        return self.function, self.arguments


def write_pickle(path: Path, pickled: bytes) -> Path:
    """Write a checkpoint of torch's format around a hand-made pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    empty = path.with_suffix(".empty")
    torch.save({}, empty)
    with zipfile.ZipFile(empty) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content = pickled if entry.filename.endswith("data.pkl") else source.read(entry)
            target.writestr(entry.filename, content)
    return path
