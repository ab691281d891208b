"""Core + readout models: a shared core, one readout per session."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra.utils
import pytorch_lightning as pl
import torch
from jaxtyping import Bool, Float, Int
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from coread.collectives import gather_objects, gather_scalars, is_shared
from coread.lr_schedules import Schedule
from coread.models.output_shape import core_output_shape
from coread.models.typical_context import long_enough
from coread.models.validation import ValidationSums
from coread.modules.core.base_core import Core, SimpleCoreWrapper
from coread.modules.losses.poisson import PoissonLoss3d
from coread.modules.readout.multi_readout import MultiGaussianMaskReadout, MultiReadoutBase

OptimizerFactory = Callable[..., torch.optim.Optimizer]
SchedulerFactory = Callable[..., torch.optim.lr_scheduler.LRScheduler | Schedule]
# (model, session, batch) -> loss and penalties with gradients, None to compute them here
StepTogether = Callable[..., tuple[Tensor, dict[str, Tensor]] | None]
NEVER = 2**31  # epochs between steps of a schedule that Lightning must not step

TRAINED_WITH = ("stim_mean", "stim_std")  # what a core was trained with, which new sessions do not change

# documented as parts of this module
_HOMES = {
    "is_model_causal": "coread.models.causality",
    "load_core_readout_from_remote": "coread.models.pretrained",
    "load_core_readout_model": "coread.models.pretrained",
}


class BaseCoreReadout(pl.LightningModule):
    """A core and its readouts with their training step.

    `loss(output, target, mask)` is minimised (default: mean Poisson). `correlation_loss(output, target, mask)` is an
    optional further score logged on validation data; the published name `evaluation_loss` is an alias. The score that
    decides about early stopping, `val_correlation`, is always the correlation of each neuron over all validation bins,
    averaged over all neurons. `val_loss` is a mean over bins of each session's mean over neurons, so a bin of a session
    with many neurons counts as much as one of a session with few, as in training.
    """

    def __init__(
        self,
        core: Core,
        readout: MultiReadoutBase,
        learning_rate: float = 1e-3,
        loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        correlation_loss: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if correlation_loss is not None and evaluation_loss is not None:
            raise TypeError("correlation_loss and evaluation_loss name the same thing: give one of them")
        self.core, self.readout = core, readout
        self.learning_rate = learning_rate
        self.loss = PoissonLoss3d() if loss is None else loss
        self.correlation_loss = evaluation_loss if correlation_loss is None else correlation_loss
        self.data_info: dict[str, Any] = dict(data_info or {})
        self.optimizer_factory = torch.optim.Adam if optimizer is None else optimizer
        self.scheduler_factory = lr_scheduler
        self._core_is_frozen = False
        self._validation = ValidationSums()
        self.together: StepTogether | None = None  # computes training steps together with those of other members

    # what `forward` takes beside stimulus and session, of behaviour, pupil_center, history, state and time_order
    context_names: tuple[str, ...] = ()

    @property
    def lag(self) -> int:
        """Bins that the output is shorter than the input: a prediction sees its own bin and `lag` before it."""
        return int(self.core.lag) + int(getattr(self.readout, "lag", 0))

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """`data_info`, by the other name that the documents give it."""
        return self.data_info

    def forward(
        self, x: Float[Tensor, "batch channel time height width"], data_key: str | None = None
    ) -> Float[Tensor, "batch time_out neuron"]:
        """Predict responses of a session, or of all sessions in sorted order if `data_key` is None.

        In eval mode a stimulus that is no longer than the lag is preceded by as many frames of mean grey (warning).
        """
        x = x if self.training else long_enough(x, self.lag)
        if not getattr(self.core, "session_dependent", False):
            return self.readout(self.core(x), data_key=data_key)
        if data_key is None:
            return torch.cat([self(x, session) for session in self.readout.readout_keys()], dim=-1)
        return self.readout(self.core(x, data_key=data_key), data_key=data_key)

    def data_loss(
        self,
        output: Float[Tensor, "batch time_out neuron"],
        session: str,
        targets: Float[Tensor, "batch time neuron"],
        mask: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, ""]:
        """Return the loss without penalties; it is told the cell types or the number of trials if it asks for them."""
        if getattr(self.loss, "uses_cell_types", False):
            return self.loss(output, targets, *self.cell_types(session), mask)
        if getattr(self.loss, "scale_by_trials", False):
            return self.loss(output, targets, mask, n_trials=self.data_info.get("n_trials_dict", {}).get(session))
        return self.loss(output, targets, mask)

    def cell_types(self, session: str) -> tuple[Int[Tensor, " neuron"], Int[Tensor, " type"]]:
        """Return the types of a session's neurons, counted from 1, and the neurons of each type in all sessions.

        They are the column cell_type of `data_info["neurons_dict"]`, in sorted order; raises ValueError if a session
        has none.
        """
        tables: Mapping[str, Mapping[str, Sequence[Any]]] = self.data_info.get("neurons_dict", {})
        types = {name: table["cell_type"] for name, table in tables.items() if "cell_type" in table}
        if missing := sorted(set(self.readout.keys()) - set(types)):
            raise ValueError(f"{type(self.loss).__name__} needs the cell types of all sessions, {missing} have none")
        names = sorted({str(name) for of_session in types.values() for name in of_session})
        every = [names.index(str(name)) + 1 for of_session in types.values() for name in of_session]
        counts = torch.bincount(torch.tensor(every), minlength=len(names) + 1)[1:]
        own = torch.tensor([names.index(str(name)) + 1 for name in types[session]])
        return own.to(self.device), counts.to(self.device)

    def penalties(self, data_key: str) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted terms of the penalty by name: `core_<term>` and `readout_<term>` of one session."""
        core, readout = _penalty_terms(self.core), _penalty_terms(self.readout, data_key)
        return {f"core_{name}": value for name, value in core.items()} | {
            f"readout_{name}": value for name, value in readout.items()
        }

    def regularizer(self, data_key: str) -> Float[Tensor, ""]:
        """Return the sum of `penalties`: of the core and of one session's parts."""
        return self._total(self.penalties(data_key))

    def _total(self, terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        return sum(terms.values(), start=torch.zeros((), device=self.device))

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        """Return loss plus penalties of a batch: (session, point), or (session, point, weight) where ranks share them.

        Every rank logs the batches of all ranks, in the order in which one process would: `train_loss`,
        `train_penalty` and each of its terms as `train_penalty_<term>`.
        """
        session, point, weight = (*batch, 1.0)[:3]
        computed = None if self.together is None else self.together(self, session, point)
        loss, terms = self.loss_and_penalties(session, point) if computed is None else computed
        penalty = self._total(terms)
        self._log_penalty_terms(terms, len(point.inputs) * weight)
        for rank_loss, rank_penalty, n_windows in gather_scalars(loss, penalty, len(point.inputs) * weight):
            self.log("train_loss", rank_loss, on_step=False, on_epoch=True, batch_size=int(n_windows))
            self.log("train_penalty", rank_penalty, on_step=False, on_epoch=True, batch_size=int(n_windows))
        return (loss + penalty) * weight

    def loss_and_penalties(self, session: str, point: Any) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the loss of a batch (`DataPoint`) without penalties, and `penalties`."""
        output = self(point.inputs, session, **point.context)
        return self.data_loss(output, session, point.targets, point.mask), self.penalties(session)

    @torch.no_grad()
    def _log_penalty_terms(self, terms: Mapping[str, Tensor], n_windows: float) -> None:
        # only plain numbers travel between ranks
        known: Any = {name: float(value) if is_shared() else value for name, value in terms.items()}
        for rank_terms, rank_windows in gather_objects((known, n_windows)):
            for name, value in rank_terms.items():
                self.log(f"train_penalty_{name}", value, on_step=False, on_epoch=True, batch_size=int(rank_windows))

    def on_train_epoch_end(self) -> None:
        """Step a schedule that watches a score, in epochs that validated.

        Lightning would do it after the resume checkpoint is written, so that a resumed training would miss a step.
        Raises ValueError if the watched score is not logged.
        """
        if (self.current_epoch + 1) % (self.trainer.check_val_every_n_epoch or 1):
            return
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                metrics = self.trainer.callback_metrics
                if config.monitor not in metrics:
                    raise ValueError(f"lr_scheduler.monitor {config.monitor!r} is not logged, known: {sorted(metrics)}")
                config.scheduler.step(float(metrics[config.monitor]))

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the last validation."""
        self._validation = ValidationSums()

    def validation_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """Add a batch to the sums behind the validation scores: (session, point) or (session, point, weight)."""
        session, point, weight = (*batch, 1.0)[:3]
        if weight == 0:
            return
        output = self(point.inputs, session, **point.context)
        means = {"val_loss": self.data_loss(output, session, point.targets, point.mask)}
        if self.correlation_loss is not None:
            means["val_correlation_loss"] = self.correlation_loss(output, point.targets, point.mask)
        self._validation.add(session, output, point.targets, point.mask, means)

    def on_validation_epoch_end(self) -> None:
        """Log the mean losses, and the mean over all neurons of their correlation over all validation bins."""
        validation = self._validation.of_all_ranks(self.readout.keys())
        for means, n_bins in validation.means:
            for name, value in means.items():
                self.log(name, value, batch_size=n_bins)
        self.log("val_correlation", validation.mean_correlation(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Build the optimiser, and the schedule if there is one; a bare scheduler is stepped after every batch."""
        optimizer = self.optimizer_factory(self.parameters(), lr=self.learning_rate)
        if self.scheduler_factory is None:
            return optimizer
        made = self.scheduler_factory(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        schedule = made if isinstance(made, Schedule) else Schedule(made, "step")
        frequency = NEVER if isinstance(schedule.scheduler, ReduceLROnPlateau) else 1
        return {"optimizer": optimizer, "lr_scheduler": schedule._asdict() | {"frequency": frequency}}

    def save_weight_visualizations(
        self, folder_path: str | Path, file_format: str = "jpg", state_suffix: str = ""
    ) -> None:
        """Draw every filter of the core and every neuron of the readouts into two folders below a folder."""
        for name, part in (("weights_core", self.core), ("weights_readout", self.readout)):
            part.save_weight_visualizations(Path(folder_path) / name, file_format, state_suffix)

    def freeze_core(self) -> None:
        """Keep the core as it is from now on, its weights and the running statistics of its batch norms."""
        self.core.requires_grad_(False)
        self._core_is_frozen = True
        self.core.eval()

    def train(self, mode: bool = True) -> "BaseCoreReadout":
        """Set training or evaluation mode; a frozen core stays in evaluation mode."""
        super().train(mode)
        if self._core_is_frozen:
            self.core.eval()
        return self

    def update_model_data_info(self, data_info: Mapping[str, Any]) -> None:
        """Take what `data_info` says of new sessions into the model's, session by session, and replace single values.

        The stimulus mean and std stay those that the model was trained with. Raises ValueError for another
        (channel, height, width).
        """
        merged = dict(self.data_info)
        for key, value in data_info.items():
            known = merged.get(key)
            if key == "input_shape" and known is not None and list(known) != list(value):
                raise ValueError(f"the model takes stimuli of {list(known)}, the new data have {list(value)}")
            if isinstance(value, Mapping) and isinstance(known, Mapping | None):
                merged[key] = {**(known or {}), **value}
            elif key not in TRAINED_WITH or known is None:
                merged[key] = value
        self.data_info = merged

    def make_session_parts(self, n_neurons_dict: Mapping[str, int]) -> None:
        """Make what a model has of every session beside its readout: here nothing."""

    def stimulus_shape(self, time_steps: int, num_batches: int = 1) -> tuple[int, int, int, int, int]:
        """Return (batch, channel, time, height, width) of a stimulus for this model."""
        channels, height, width = self.data_info["input_shape"]
        return num_batches, channels, time_steps, height, width


class UnifiedCoreReadout(BaseCoreReadout):
    """Core and readout named by `_target_` in Hydra configs; channels and shapes are filled in from the data.

    `in_shape` is (channel, time, height, width). The resolved model config is kept in `data_info["model_config"]`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        core: DictConfig | Mapping[str, Any],
        readout: DictConfig | Mapping[str, Any],
        hidden_channels: Sequence[int] | None = None,
        learning_rate: float = 1e-3,
        loss: nn.Module | None = None,
        evaluation_loss: nn.Module | None = None,
        data_info: Mapping[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
        correlation_loss: nn.Module | None = None,
    ) -> None:
        core_config, readout_config = _plain(core), _plain(readout)
        channels = (int(in_shape[0]), *(int(c) for c in hidden_channels or ()))
        # partial first: Hydra would turn what is passed through it into its own containers
        make_core = hydra.utils.instantiate(core_config, _partial_=True)
        make_readout = hydra.utils.instantiate(readout_config, _partial_=True)
        core_module = make_core(channels=channels, n_neurons_dict=dict(n_neurons_dict))
        info = dict(data_info or {})
        readout_module = make_readout(
            in_shape=core_output_shape(core_module, in_shape),
            n_neurons_dict=dict(n_neurons_dict),
            mean_activity_dict=info.get("mean_activity_dict"),
            # tables of neurons, for readouts that ask for them
            **{name: info[name] for name in getattr(make_readout.func, "session_tables", ()) if name in info},
        )
        info["model_config"] = {
            "hidden_channels": list(channels[1:]),
            "core": core_config,
            "readout": readout_config,
        }
        super().__init__(
            core_module,
            readout_module,
            learning_rate=learning_rate,
            loss=loss,
            correlation_loss=correlation_loss,
            evaluation_loss=evaluation_loss,
            data_info=info,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )


class ExampleCoreReadout(BaseCoreReadout):
    """The documented example: a convolutional core and Gaussian-mask readouts, built from plain arguments."""

    def __init__(
        self,
        in_shape: Sequence[int],
        hidden_channels: Sequence[int],
        temporal_kernel_sizes: Sequence[int],
        spatial_kernel_sizes: Sequence[int],
        n_neurons_dict: Mapping[str, int],
        core_gamma_input: float = 0.0,
        core_gamma_hidden: float = 0.0,
        core_gamma_in_sparse: float = 0.0,
        core_gamma_temporal: float = 0.0,
        core_input_padding: bool | int | str | Sequence[int] = False,
        core_hidden_padding: bool | int | str | Sequence[int] = True,
        readout_scale: bool = True,
        readout_bias: bool = True,
        readout_gaussian_mean_scale: float = 6.0,
        readout_gaussian_var_scale: float = 4.0,
        readout_positive: bool = True,
        readout_mask_l1_reg: float = 0.0,
        readout_feature_l1_reg: float = 0.0,
        readout_reg_avg: bool = False,
        learning_rate: float = 1e-3,
        cut_first_n_frames_in_core: int = 0,
        dropout_rate: float = 0.0,
        maxpool_every_n_layers: int | None = None,
        downsample_input_kernel_size: Sequence[int] | None = None,
        convolution_type: str = "custom_separable",
        color_squashing_weights: Sequence[float] | None = None,
        data_info: Mapping[str, Any] | None = None,
        loss: nn.Module | None = None,
        correlation_loss: nn.Module | None = None,
    ) -> None:
        core = SimpleCoreWrapper(
            channels=(int(in_shape[0]), *hidden_channels),
            temporal_kernel_sizes=tuple(temporal_kernel_sizes),
            spatial_kernel_sizes=tuple(spatial_kernel_sizes),
            gamma_input=core_gamma_input,
            gamma_temporal=core_gamma_temporal,
            gamma_in_sparse=core_gamma_in_sparse,
            gamma_hidden=core_gamma_hidden,
            dropout_rate=dropout_rate,
            cut_first_n_frames=cut_first_n_frames_in_core,
            color_squashing_weights=color_squashing_weights,
            maxpool_every_n_layers=maxpool_every_n_layers,
            downsample_input_kernel_size=downsample_input_kernel_size,
            input_padding=core_input_padding,
            hidden_padding=core_hidden_padding,
            convolution_type=convolution_type,
            n_neurons_dict=dict(n_neurons_dict),
        )
        readout = MultiGaussianMaskReadout(
            in_shape=core_output_shape(core, in_shape),
            n_neurons_dict=dict(n_neurons_dict),
            scale=readout_scale,
            bias=readout_bias,
            gaussian_mean_scale=readout_gaussian_mean_scale,
            gaussian_var_scale=readout_gaussian_var_scale,
            positive=readout_positive,
            mask_l1_reg=readout_mask_l1_reg,
            feature_weights_l1_reg=readout_feature_l1_reg,
            readout_reg_avg=readout_reg_avg,
            mean_activity_dict=(data_info or {}).get("mean_activity_dict"),
        )
        super().__init__(
            core,
            readout,
            learning_rate=learning_rate,
            loss=loss,
            correlation_loss=correlation_loss,
            data_info=data_info,
        )


def __getattr__(name: str) -> Any:
    """Import what belongs to models but stands elsewhere when it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def _penalty_terms(module: Any, *arguments: str) -> dict[str, Float[Tensor, ""]]:
    """Return a core's or readout's penalty by terms, as a single one where it tells only their sum."""
    terms = getattr(module, "penalties", None)
    return {"regularizer": module.regularizer(*arguments)} if terms is None else terms(*arguments)


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, DictConfig):
        return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return dict(config)
