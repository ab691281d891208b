"""Which classes a model file may name: published ones by an explicit table, our own if they are parts of models.

Hydra imports and calls whatever `_target_` names, so a model file from elsewhere could name any program.
"""

from collections.abc import Mapping
from typing import Any

from coread.models.model_parts import entries, refused_setting
from coread.models.pretrained.safe_pickle import CheckpointError, UnsafeCheckpointError

_CORES = "modules.core.base_core"
_GRU_CORES = "modules.core.gru_core"
_READOUTS = "modules.readout.multi_readout"
# published class -> ours, below the package; old published names stand beside the ones of openretina 1.1.1
PUBLISHED: Mapping[str, str] = {
    f"{_CORES}.SimpleCoreWrapper": f"{_CORES}.SimpleCoreWrapper",
    f"{_CORES}.DummyCore": f"{_CORES}.DummyCore",
    f"{_GRU_CORES}.ConvGRUCore": f"{_GRU_CORES}.ConvGRUCore",
    f"{_GRU_CORES}.ConditionedGRUCore": f"{_GRU_CORES}.ConditionedGRUCore",
    f"{_READOUTS}.MultiGaussianMaskReadout": f"{_READOUTS}.MultiGaussianMaskReadout",
    f"{_READOUTS}.MultiGaussianReadoutWrapper": f"{_READOUTS}.MultiGaussianMaskReadout",
    f"{_READOUTS}.MultiFactorizedReadout": f"{_READOUTS}.MultiFactorizedReadout",
    f"{_READOUTS}.MultiSampledGaussianReadout": f"{_READOUTS}.MultiSampledGaussianReadout",
    f"{_READOUTS}.MultiSampledGaussianReadoutWrapper": f"{_READOUTS}.MultiSampledGaussianReadout",
    f"{_READOUTS}.MultipleLNPReadout": f"{_READOUTS}.MultipleLNPReadout",
    f"{_READOUTS}.MultiSpatialContrastReadout": f"{_READOUTS}.MultiSpatialContrastReadout",
}
# functions that published configs name instead of a nonlinearity
NONLINEARITIES: Mapping[str, str] = {
    "torch.nn.functional.softplus": "softplus",
    "torch._C._nn.softplus": "softplus",
    "torch.exp": "exp",
    "torch.nn.Identity": "identity",
}


def our_class(published: str) -> str:
    """Return the dotted name of our class for a published one, or one of ours under the published name.

    Raises CheckpointError naming an unknown one.
    """
    package, _, rest = published.partition(".")
    if package not in ("openretina", "coread") or rest not in PUBLISHED:
        known = sorted(f"openretina.{name}" for name in PUBLISHED)
        raise CheckpointError(f"the checkpoint is made of {published!r}, which is unknown here; known are {known}")
    return f"coread.{PUBLISHED[rest]}"


def check_targets(settings: Mapping[str, Any]) -> None:
    """Refuse the train slice of a model file that would do more than build a model.

    Raises UnsafeCheckpointError naming the first `_target_` that is no module, optimiser or schedule, or a reference
    that would have to be resolved.
    """
    if (refused := refused_setting(settings)) is not None:
        raise UnsafeCheckpointError(f"the settings of the model ask for {refused}")


def refuse_targets(settings: Mapping[str, Any]) -> None:
    """Raise UnsafeCheckpointError naming any `_target_`: for what a table has translated and must name no more."""
    for key, value in entries(settings):
        if key == "_target_":
            raise UnsafeCheckpointError(f"the config of the checkpoint asks for {value}, which is refused")
