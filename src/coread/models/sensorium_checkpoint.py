"""Reading of weight files of the SENSORIUM 2022 baselines and of the entry "Model 4", which hold tensors only.

Names and shapes of tensors tell what was built; what they cannot tell is an argument of `load_sensorium_checkpoint`.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coread.models.image_core_readout import ImageCoreReadout
from coread.models.pretrained.safe_pickle import CheckpointError

log = logging.getLogger(__name__)

State = Mapping[str, Tensor]
GAUSS_TYPES: dict[tuple[int, ...], str] = {(2, 2): "full", (1, 2): "uncorrelated", (1, 1): "isotropic"}
COORDINATES = ("x", "y", "z")
PUBLISHED_MOMENTUM = 0.9
# weights of the penalties, of which a state dict says nothing: of the baselines, of Model 4
BASELINE_GAMMAS = {"input": 6.3831, "readout": 0.0076}
MODEL_4_GAMMAS = {"input": 9.8, "readout": 0.48}
LINEAR_LAYERS = 3  # of the published linear-nonlinear baseline; all others have 4
MODEL_4_PREDICTOR = (4, 20)  # hidden layers and features of the only published grid predictor with ReLU


def load_sensorium_checkpoint(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    linear: bool | None = None,
    grid_nonlinearity: str | None = None,
    final_tanh: bool = True,
    image_size: tuple[int, int] = (36, 64),
    modulator: Mapping[str, Any] | None = None,
) -> ImageCoreReadout:
    """Return the model of a published weight file, in eval mode.

    It is called with images `(batch, channel, height, width)`, prepared as those of its training (channels: the image,
    then the behaviour if there is any), and the key of a session; `pupil_center (batch, 2)` in z-scores if it has
    shifters; `history`, `state` and `time_order` if it has modulators. The order of neurons is that of the session's
    files, rates are in units of the neuron's standard deviation.

    Numbers of layers, channels, neurons and trials, sizes of kernels, the predictor of positions, shifters and
    modulators are read from the shapes. A file does not tell:

    Args:
        path: the file, a state dict.
        device: where to.
        linear: whether the core has no ELUs; None takes a core of three layers without modulator for the
            linear-nonlinear baseline, with a warning, and all others for networks with ELUs.
        grid_nonlinearity: "ELU" or "ReLU" in the predictor of positions; None: ReLU for 4 layers of 20 units (Model 4).
        final_tanh: whether the predictor ends in tanh, as all published ones do.
        image_size: height and width of the images.
        modulator: settings of `HistoryStateGainModulator` that replace those read from the file, such as parts that
            were switched off although their weights are there.

    Raises CheckpointError that names the file and what is wrong with it.

    """
    file = Path(path)
    state = _read_state(file)
    try:
        sessions = _sessions(state)
        gammas = MODEL_4_GAMMAS if _has(state, "modulator.") else BASELINE_GAMMAS
        model = ImageCoreReadout(
            (1, 1, *image_size),
            {session: _size(state, f"readout.{session}.sigma", 4)[1] for session in sessions},
            _core_node(state, sessions, linear) | {"gamma_input": gammas["input"]},
            _alike(_readout_node(state, session, grid_nonlinearity, final_tanh) for session in sessions)
            | {"gamma": gammas["readout"]},
            shifter=_alike(_shifter_node(state, session) for session in sessions) or None,
            modulator=_alike(_modulator_node(state, session, modulator or {}) for session in sessions) or None,
            # the first channel is the image
            behaviour_channels=_size(state, "core.features.layer0.conv.weight", 4)[1] - 1,
            data_info=_data_info(state, sessions, image_size),
        )
        model.load_state_dict(dict(state))
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file}: {' '.join(str(error).split())}") from error
    return model.to(device).eval()


def _read_state(file: Path) -> State:
    """Return the tensors of a file by name; raises CheckpointError if it holds anything else, or no such model."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: there is no such file") from None
    except Exception as error:
        raise CheckpointError(f"{file}: not a readable weight file, truncated or foreign ({error})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{file}: expected a state dict of tensors by name, found {found}")
    if not _has(content, "core.features.layer0.conv.weight") or not _has(content, "readout."):
        raise CheckpointError(
            f"{file}: not a SENSORIUM model: expected core.features.layer0.conv.weight and readout.<session>.*, found "
            f"{sorted(map(str, content))[:5]} ..."
        )
    return content


def _has(state: State, prefix: str) -> bool:
    return any(str(name).startswith(prefix) for name in state)


def _size(state: State, name: str, n_axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor; raises ValueError if it is missing or has another number of axes."""
    if name not in state:
        raise ValueError(f"{name} is missing")
    if state[name].dim() != n_axes:
        raise ValueError(f"{name} should have {n_axes} axes, its shape is {tuple(state[name].shape)}")
    return tuple(state[name].shape)


def _sessions(state: State) -> list[str]:
    return list(dict.fromkeys(name.split(".")[1] for name in state if name.startswith("readout.")))


def _layers(state: State, prefix: str, suffix: str = ".weight") -> list[int]:
    """Return the numbers n of tensors `<prefix><n><suffix>`, in order."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)" + re.escape(suffix))
    return sorted(int(match[1]) for name in state if (match := pattern.fullmatch(name)))


def _alike(nodes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings that all sessions share; raises ValueError if they differ."""
    found = list(nodes)
    if any(node != found[0] for node in found):
        raise ValueError(f"the sessions differ in their parts, which is not supported: {found}")
    return found[0]


def _core_node(state: State, sessions: Sequence[str], linear: bool | None) -> dict[str, Any]:
    """Return the settings of the core; raises ValueError for filters that are not square."""
    prefix = "core.features.layer"
    numbers = sorted({int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)})
    depth_separable = _has(state, f"{prefix}1.ds_conv.")
    names = [f"{prefix}0.conv"]
    names += [f"{prefix}{i}.{'ds_conv.spatial_conv' if depth_separable else 'conv'}" for i in numbers[1:]]
    sizes = [_size(state, f"{name}.weight", 4) for name in names]
    if any(height != width for *_, height, width in sizes):
        raise ValueError(f"filters must be square, their shapes are {sizes}")
    channels = [size[0] for size in sizes]
    entry = "ds_conv.in_depth_conv" if depth_separable else "conv"
    n_seen = [_size(state, f"{prefix}{i}.{entry}.weight", 4)[1] for i in numbers[1:]]
    return {
        "_target_": "coread.modules.core.stacked_core.Stacked2dCore",
        "hidden_channels": channels,
        "input_kern": sizes[0][2],
        "hidden_kern": [size[2] for size in sizes[1:]],
        "layers": len(numbers),
        "depth_separable": depth_separable,
        "batch_norm": f"{prefix}0.norm.running_mean" in state,
        "momentum": PUBLISHED_MOMENTUM,
        "bias": any(f"{name}.bias" in state for name in names),
        # a layer that sees several others has as many times their channels
        "skip": max((n // channels[0] for n, below in zip(n_seen, channels, strict=False) if n != below), default=0),
        "stack": _stack(channels, _size(state, f"readout.{sessions[0]}._features", 4)[1]),
        "linear": _is_linear(len(numbers), _has(state, "modulator.")) if linear is None else linear,
    }


def _stack(channels: Sequence[int], n_features: int) -> int:
    """Return the number of last layers that the readout sees, as a negative index; raises ValueError if none fits."""
    for n_layers in range(1, len(channels) + 1):
        if sum(channels[-n_layers:]) == n_features:
            return -n_layers
    raise ValueError(f"the readout has {n_features} features, which no last layers of {list(channels)} channels give")


def _is_linear(n_layers: int, has_modulator: bool) -> bool:
    if n_layers != LINEAR_LAYERS or has_modulator:
        return False
    log.warning(
        "a core of %d layers is taken for the linear-nonlinear baseline, without ELUs: the file does not tell, "
        "linear=False keeps them",
        n_layers,
    )
    return True


def _readout_node(state: State, session: str, grid_nonlinearity: str | None, final_tanh: bool) -> dict[str, Any]:
    prefix = f"readout.{session}."
    sigma = _size(state, f"{prefix}sigma", 4)
    if sigma[2:] not in GAUSS_TYPES:
        raise ValueError(f"{prefix}sigma should be (1, neuron, ...) with {list(GAUSS_TYPES)}, its shape is {sigma}")
    node: dict[str, Any] = {
        "_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout",
        "gauss_type": GAUSS_TYPES[sigma[2:]],
        "bias": f"{prefix}bias" in state,
    }
    linear = _layers(state, f"{prefix}mu_transform.")
    if not linear:
        return node
    hidden = (len(linear) - 1, _size(state, f"{prefix}mu_transform.0.weight", 2)[0])
    if grid_nonlinearity is None:
        grid_nonlinearity = "ReLU" if hidden == MODEL_4_PREDICTOR else "ELU"
    predictor = {"hidden_layers": hidden[0], "hidden_features": hidden[1], "final_tanh": final_tanh}
    columns = list(COORDINATES[: _size(state, f"{prefix}source_grid", 2)[1]])
    return node | {
        "grid_mean_predictor": predictor | {"nonlinearity": grid_nonlinearity},
        "source_columns": columns,
    }


def _shifter_node(state: State, session: str) -> dict[str, Any]:
    prefix = f"shifter.{session}."
    if f"{prefix}weight" in state:
        return {
            "_target_": "coread.modules.shifter.AffineShifter",
            "input_channels": _size(state, f"{prefix}weight", 2)[1],
            "bias": f"{prefix}bias" in state,
        }
    linear = _layers(state, f"{prefix}mlp.")
    if not linear:
        return {}
    n_hidden, n_inputs = _size(state, f"{prefix}mlp.0.weight", 2)
    return {
        "_target_": "coread.modules.shifter.MLPShifter",
        "input_channels": n_inputs,
        "hidden_channels": n_hidden,
        "shift_layers": len(linear),
        "bias": f"{prefix}mlp.0.bias" in state,
    }


def _modulator_node(state: State, session: str, replaced: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"modulator.{session}."
    if not _has(state, prefix):
        return {}
    node: dict[str, Any] = {
        "_target_": "coread.modules.modulator.HistoryStateGainModulator",
        "include_history": f"{prefix}history_weights" in state,
        "include_state": f"{prefix}state_encoder.weight" in state,
        "include_gain": f"{prefix}own_gain" in state,
        "per_neuron_gain_adjust": f"{prefix}gain_coupling" in state,
        "published_behaviour": True,
    }
    if node["include_history"]:
        node["nr_history"] = _size(state, f"{prefix}history_weights", 2)[1]
    if node["include_state"]:
        node["nr_behav_state"] = _size(state, f"{prefix}state_encoder.weight", 2)[1]
    return node | dict(replaced)


def _data_info(state: State, sessions: Sequence[str], image_size: tuple[int, int]) -> dict[str, Any]:
    """Return what a model is built from: positions in the tissue, centred and scaled, and numbers of trials."""
    info: dict[str, Any] = {"input_shape": [1, *image_size], "neurons_dict": {}, "n_trials_dict": {}}
    for session in sessions:
        if (grid := state.get(f"readout.{session}.source_grid")) is not None:
            info["neurons_dict"][session] = dict(zip(COORDINATES, grid.T.tolist(), strict=False))
        if (gain := state.get(f"modulator.{session}.own_gain")) is not None:
            info["n_trials_dict"][session] = len(gain)
    return info
