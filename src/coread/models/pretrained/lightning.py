"""Published Lightning checkpoints as our models, with the published outputs."""

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from coread.models.core_readout import UnifiedCoreReadout
from coread.models.pretrained.config_nodes import plain_value
from coread.models.pretrained.safe_pickle import CheckpointError, InertRecord
from coread.models.pretrained.targets import NONLINEARITIES, our_class, refuse_targets

PUBLISHED_CUT = 30  # published default of cut_first_n_frames
# what an ExampleCoreReadout of any published version calls the arguments of its core and readout
EXAMPLE_CORE: Mapping[str, str] = {
    "temporal_kernel_sizes": "temporal_kernel_sizes",
    "spatial_kernel_sizes": "spatial_kernel_sizes",
    "core_gamma_input": "gamma_input",
    "core_gamma_hidden": "gamma_hidden",
    "core_gamma_in_sparse": "gamma_in_sparse",
    "core_gamma_temporal": "gamma_temporal",
    "core_input_padding": "input_padding",
    "core_hidden_padding": "hidden_padding",
    "core_convolution_type": "convolution_type",
    "convolution_type": "convolution_type",
    "cut_first_n_frames_in_core": "cut_first_n_frames",
    "dropout_rate": "dropout_rate",
    "maxpool_every_n_layers": "maxpool_every_n_layers",
    "downsample_input_kernel_size": "downsample_input_kernel_size",
    "color_squashing_weights": "color_squashing_weights",
}
EXAMPLE_READOUT: Mapping[str, str] = {
    "readout_scale": "scale",
    "readout_bias": "bias",
    "readout_gaussian_mean_scale": "gaussian_mean_scale",
    "readout_gaussian_var_scale": "gaussian_var_scale",
    "readout_positive": "positive",
    "readout_mask_l1_reg": "mask_l1_reg",
    "readout_feature_l1_reg": "feature_weights_l1_reg",
    "readout_gamma": "mask_l1_reg",  # published: handed on by position
    "readout_gamma_masks": "feature_weights_l1_reg",
    "readout_reg_avg": "readout_reg_avg",
}
OLD_READOUT_ARGUMENTS: Mapping[str, Mapping[str, str | None]] = {
    "openretina.modules.readout.multi_readout.MultiGaussianReadoutWrapper": {
        "gamma_readout": "feature_weights_l1_reg",
        "gamma_masks": "mask_l1_reg",
        "gaussian_masks": None,
    },
    "openretina.modules.readout.multi_readout.MultiSampledGaussianReadoutWrapper": {
        "gamma_readout": "gamma",
        "readout_reg_avg": "reg_avg",
        "mean_activity": None,
    },
    "openretina.modules.readout.multi_readout.MultipleLNPReadout": {"smooth_regularizer": None},
}
# what the published class is, where ours can be more: its filters have no time
PUBLISHED_READOUTS: Mapping[str, Mapping[str, Any]] = {
    "openretina.modules.readout.multi_readout.MultipleLNPReadout": {"temporal_kernel_size": 1},
}
MODEL = ("core", "readout", "in_shape", "n_neurons_dict", "hidden_channels", "learning_rate", "data_info")
FILLED_IN = ("channels", "in_shape", "n_neurons_dict", "mean_activity_dict")
HYDRA_ONLY = ("_convert_", "_recursive_", "_partial_")


def is_lightning(content: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is one that Lightning wrote, with its hyper-parameters."""
    return "state_dict" in content and "hyper_parameters" in content


def build_published(content: Mapping[str, Any]) -> UnifiedCoreReadout:
    """Return the model of a published checkpoint, as read by `read_checkpoint`, in main memory.

    Raises CheckpointError naming classes, arguments or weights that do not fit.
    """
    hyper = content["hyper_parameters"]
    # no more than the model needs: a config of the optimiser may refer to what was not saved
    parameters = {name: plain_value(hyper[name]) for name in (*MODEL, *EXAMPLE_CORE, *EXAMPLE_READOUT) if name in hyper}
    core, readout, hidden_channels = _architecture(parameters)
    in_shape = [int(size) for size in _needed(parameters, "in_shape")]
    info = _data_info(parameters, in_shape)
    try:
        model = UnifiedCoreReadout(
            in_shape=in_shape,
            n_neurons_dict=info["n_neurons_dict"],
            core=core,
            readout=readout,
            hidden_channels=hidden_channels,
            learning_rate=float(parameters.get("learning_rate", 1e-3)),
            data_info=info,
        )
    except Exception as error:  # Hydra wraps what a constructor says in an error of its own
        cause = error.__cause__ or error
        raise CheckpointError(f"the published model cannot be built: {cause}") from error
    _load_weights(model, content["state_dict"])
    return model


def _architecture(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """Return our configs of core and readout, and the channels of the hidden layers."""
    core, readout = parameters.get("core"), parameters.get("readout")
    if isinstance(core, dict) and isinstance(readout, dict):
        hidden = parameters.get("hidden_channels")
        hidden = core.get("channels", [0])[1:] if hidden is None else hidden
    elif "temporal_kernel_sizes" in parameters:
        core, readout, hidden = *_example_configs(parameters), _needed(parameters, "hidden_channels")
    else:
        raise CheckpointError(
            f"hyper_parameters {sorted(parameters)} describe neither a UnifiedCoreReadout (core, readout) nor an "
            "ExampleCoreReadout (temporal_kernel_sizes)"
        )
    return _core_config(core), _readout_config(readout), [int(size) for size in hidden]


def _example_configs(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    core = {ours: parameters[name] for name, ours in EXAMPLE_CORE.items() if name in parameters}
    readout = {ours: parameters[name] for name, ours in EXAMPLE_READOUT.items() if name in parameters}
    return (
        {"_target_": "openretina.modules.core.base_core.SimpleCoreWrapper", **core},
        {"_target_": "openretina.modules.readout.multi_readout.MultiGaussianMaskReadout", **readout},
    )


def _core_config(published: Mapping[str, Any]) -> dict[str, Any]:
    name = str(published.get("_target_"))
    target, config = our_class(name), _arguments(published)
    if not name.startswith("openretina."):
        return _checked("core", target, config)
    known = _constructor_arguments(target)
    if "cut_first_n_frames" in known:
        config.setdefault("cut_first_n_frames", PUBLISHED_CUT)
    if "published_behaviour" in known:  # padding in time shapes the output
        config["published_behaviour"] = True
    return _checked("core", target, config)


def _readout_config(published: Mapping[str, Any]) -> dict[str, Any]:
    # the published defects of readouts shape how they start and train, not the output of trained ones
    name = str(published.get("_target_"))
    renamed = OLD_READOUT_ARGUMENTS.get(name, {})
    config = {renamed.get(key, key): value for key, value in _arguments(published).items()}
    known = {key: value for key, value in config.items() if key is not None}
    return _checked("readout", our_class(name), known | dict(PUBLISHED_READOUTS.get(name, {})))


def _arguments(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published node's arguments without those that the model fills in; functions by our names."""
    left_out = (*FILLED_IN, *HYDRA_ONLY, "_target_")
    arguments = {str(key): _nonlinearity(value) for key, value in published.items() if key not in left_out}
    refuse_targets(arguments)
    return arguments


def _nonlinearity(value: Any) -> Any:
    """Return our name of a function that stands in a config as itself or as a node of Hydra; other values as given."""
    if isinstance(value, dict) and value.get("_target_") in ("hydra.utils.get_method", "hydra.utils.get_object"):
        name = str(value.get("path"))
    elif isinstance(value, type) and issubclass(value, InertRecord):
        name = value.published_name
    else:
        return value
    if name not in NONLINEARITIES:
        raise CheckpointError(f"the checkpoint names the function {name!r}; known are {sorted(NONLINEARITIES)}")
    return NONLINEARITIES[name]


def _checked(part: str, target: str, config: dict[str, Any]) -> dict[str, Any]:
    """Drop published arguments that mean nothing here when they are unset; refuse others by name."""
    known = _constructor_arguments(target)
    for name in [name for name in config if name not in known]:
        if config[name] is not None:
            raise CheckpointError(f"the {part} of the checkpoint has {name}={config[name]!r}, which {target} lacks")
        del config[name]
    return {"_target_": target, **config}


def _constructor_arguments(target: str) -> frozenset[str]:
    module, _, name = target.rpartition(".")
    return frozenset(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _data_info(parameters: Mapping[str, Any], in_shape: Sequence[int]) -> dict[str, Any]:
    info = dict(parameters.get("data_info") or {})
    counts = parameters.get("n_neurons_dict") or info.get("n_neurons_dict")
    if not counts:
        raise CheckpointError("the checkpoint does not say how many neurons its sessions have (n_neurons_dict)")
    info["n_neurons_dict"] = {str(session): int(count) for session, count in counts.items()}
    info["input_shape"] = [int(size) for size in info.get("input_shape") or (in_shape[0], *in_shape[2:])]
    # absent or NaN: the published movies of that data set are normalised already
    for name, neutral in (("stim_mean", 0.0), ("stim_std", 1.0)):
        value = info.get(name)
        info[name] = neutral if value is None or not math.isfinite(float(value)) else float(value)
    info["response_scale"] = {session: torch.ones(count) for session, count in info["n_neurons_dict"].items()}
    return info


def _needed(parameters: Mapping[str, Any], name: str) -> Any:
    if parameters.get(name) is None:
        raise CheckpointError(f"the hyper_parameters of the checkpoint lack {name}")
    return parameters[name]


def _load_weights(model: UnifiedCoreReadout, published: Mapping[str, Tensor]) -> None:
    """Load the published weights under our names; raises CheckpointError naming what is missing, left or misshapen."""
    weights = {_our_name(name): value for name, value in published.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights of the checkpoint do not fit its architecture: {error}") from error


def _our_name(name: str) -> str:
    if name.startswith("readout.") and name.endswith(".bias_param"):  # before the published name was bias
        return name.removesuffix("_param")
    return name
