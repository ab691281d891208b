"""Training of one member: `train(config, recordings, fold, seed) -> Member`, readable top to bottom."""

import hashlib
import importlib
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import hydra.utils
import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from jaxtyping import Int8
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy

from coread.callbacks import KeepBest, KeepRanksAlike, LearningCurve, SaveLast, SeedEpochs, epoch_seed
from coread.data_io.cutmix import CutMix
from coread.data_io.cyclers import LongCycler, SharedCycler, ShortCycler
from coread.data_io.dataloader import SessionWindows
from coread.data_io.splits import TRAIN, VALIDATION, label_bins
from coread.data_io.statistics import Statistics, compute_statistics
from coread.distributed import Ranks, find_ranks
from coread.models.core_readout import BaseCoreReadout, StepTogether
from coread.models.initialization import GivenStas, initialize_readouts
from coread.models.member import Member, build_model, session_sizes
from coread.provenance import code_version
from coread.recording import Recording
from coread.signatures import GROUP_MODULES
from coread.training_checks import check_causality, check_loss, check_quality, check_sessions, make_callbacks

if TYPE_CHECKING:
    from coread.data_io.regressors.session import SessionContext
    from coread.models.extension import TrainedCore

log = logging.getLogger(__name__)

Labels = dict[str, Int8[np.ndarray, "bin"]]
Cycler = TypeVar("Cycler", LongCycler, ShortCycler)
SESSIONS = "sessions"  # value of trainer.accumulate_grad_batches: one batch of every session per optimiser step


class Fitted(NamedTuple):
    """What a fold decides for the training: labels, statistics, and what is known of a session beside its stimuli."""

    labels: Labels
    statistics: Statistics
    contexts: "dict[str, SessionContext]"


def train(
    config: Mapping[str, Any],
    recordings: Sequence[Recording],
    fold: int,
    seed: int,
    *,
    work_dir: Path,
    accelerator: str = "auto",
    precision: str = "auto",
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    progress_bar: bool | None = None,
    model_files: Mapping[str, Path] | None = None,
    stas: Mapping[str, Path] | None = None,
    together: StepTogether | None = None,
) -> Member:
    """Train one member and return it with the weights of its best epoch.

    `config` is the train slice. `work_dir` keeps `last.ckpt` after every epoch: called again with the same arguments
    after a kill, training resumes there and ends with the same weights. Remove the folder once the member is saved.
    `model_files` says where trained models that the settings name lie (`pretrained_core`); by default the environment
    does. `stas` are the files of the sessions' spike-triggered averages, where they were computed before
    (`compute_fold_sta`); otherwise they are computed here, to the same bits. `callbacks` only watch, such as the pruner
    of a search. `together` computes steps with those of members that train beside (`train_members`). Nothing of a test
    tier is read. With `trainer.num_processes` above 1 every rank calls it with the same arguments and gets the same
    member. Raises
    SplitError, QualityError or ValueError for data or settings that cannot be trained on.
    """
    settings = _plain(config)
    ranks = _ranks(settings["trainer"], accelerator)
    pl.seed_everything(seed, verbose=False)
    trained_core = _trained_core(settings, recordings, model_files)
    if trained_core is not None:
        settings["model"] = trained_core.model_settings(settings["model"])
    model, fitted = _prepare(settings, recordings, fold, trained_core, stas)

    windows = {
        label: _session_windows(settings, recordings, label, model, fitted, _device(accelerator, ranks))
        for label in (TRAIN, VALIDATION)
    }
    stoppers = make_callbacks(settings["training_callbacks"])
    # early stopping per cell keeps the best weights itself
    keep_best = next((stopper for stopper in stoppers if isinstance(stopper, KeepBest)), KeepBest())
    curve = LearningCurve()
    work_dir.mkdir(parents=True, exist_ok=True)
    last = work_dir / "last.ckpt"
    alike = [KeepRanksAlike()] if ranks.size > 1 else []
    others = [stopper for stopper in stoppers if stopper is not keep_best]
    watching = [SeedEpochs(seed, ranks.rank), *alike, keep_best, curve, *others, *callbacks, SaveLast(last)]
    with warnings.catch_warnings():
        silence_lightning()
        trainer = _trainer(
            _with_sessions(settings["trainer"], len(recordings)),
            watching,
            ranks,
            work_dir,
            accelerator,
            precision,
            loggers,
            progress_bar,
        )
        if last.exists():
            log.info("resuming from %s", last)
        resume = last if last.exists() else None
        model.together = together
        # the checkpoint is our own; best weights and learning curve are plain types and tensors
        trainer.fit(model, datamodule=Epochs(windows, seed, ranks), ckpt_path=resume, weights_only=True)
    model.together = None
    model.load_state_dict(keep_best.best_weights)
    log.info("best validation correlation %.4f in epoch %d", keep_best.best_score, keep_best.best_epoch + 1)
    model.data_info |= keep_best.outcome() | {"trained_with": trained_with(accelerator, precision)}
    return Member(model.cpu().eval(), settings, fold, seed, dict(model.data_info), pd.DataFrame(curve.rows))


class Epochs(pl.LightningDataModule):
    """Batches of every epoch, drawn from (seed, epoch) alone so that a resumed epoch is the one that was lost.

    Ranks share what one process would visit.
    """

    def __init__(
        self, windows: Mapping[int, Mapping[str, SessionWindows]], seed: int, ranks: Ranks | None = None
    ) -> None:
        super().__init__()
        self.windows, self.seed, self.ranks = windows, seed, ranks or Ranks()

    def train_dataloader(self) -> LongCycler | SharedCycler:
        """Return this epoch's training batches; the trainer asks again every epoch."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        rng = np.random.default_rng(epoch_seed(self.seed, epoch))
        return self._share(
            LongCycler(
                {session: windows.shuffled(rng) for session, windows in self.windows[TRAIN].items()}, shuffle=False
            )
        )

    def val_dataloader(self) -> ShortCycler | SharedCycler:
        """Return every validation bin once."""
        return self._share(
            ShortCycler({session: windows.in_order() for session, windows in self.windows[VALIDATION].items()})
        )

    def _share(self, cycler: Cycler) -> Cycler | SharedCycler:
        return cycler if self.ranks.size == 1 else SharedCycler(cycler, self.ranks.rank, self.ranks.size)


def _trained_core(
    settings: Mapping[str, Any], recordings: Sequence[Recording], model_files: Mapping[str, Path] | None
) -> "TrainedCore | None":
    """Return the core that the settings start from, checked against the recordings; None if they start from none."""
    if settings.get("pretrained_core") is None:
        return None
    # named by the settings, so that other experiments do not depend on the code that reads model files
    trained_core = hydra.utils.instantiate(settings["pretrained_core"]).load(model_files)
    check_sessions(recordings)
    trained_core.check(session_sizes(recordings))
    return trained_core


def _prepare(
    settings: dict[str, Any],
    recordings: Sequence[Recording],
    fold: int,
    trained_core: "TrainedCore | None" = None,
    stas: Mapping[str, Path] | None = None,
) -> tuple[BaseCoreReadout, Fitted]:
    """Build the model, label the bins, fit statistics and regressors, start the readouts from the training bins."""
    check_sessions(recordings)
    sizes = session_sizes(recordings)
    untrained = build_model(settings, sizes)
    lag = untrained.lag
    labels = {recording.session: label_bins(recording, settings["splits"], fold, lag) for recording in recordings}
    check_quality(recordings, labels, fold, settings["quality_checks"]["allow_constant_neurons"])
    check_loss(recordings, labels, fold, untrained.loss)
    statistics = compute_statistics(
        recordings,
        labels,
        normalize_stimulus=settings["dataloader"]["normalize_stimulus"] and trained_core is None,
        response_scale=settings["dataloader"]["response_scale"],
    )
    if trained_core is not None:
        statistics = trained_core.keep_normalisation(statistics)
    contexts: dict[str, SessionContext] = {}
    if settings.get("regressors") is not None:
        # by name: experiments without regressors do not depend on their code
        context = importlib.import_module(GROUP_MODULES["regressors"])
        names = untrained.context_names
        contexts, kept = context.fit_contexts(recordings, labels, statistics, settings["regressors"], names)
        sizes |= kept
        if trained_core is not None:
            trained_core.check_behaviour(kept["regressors"])
    model = build_model(settings, sizes | _fitted(statistics))
    if trained_core is not None:
        trained_core.put_into(model)
    given = None if stas is None else GivenStas(stas, fold)
    initialize_readouts(model, recordings, labels, statistics, settings["initialization"], given)
    check_causality(model, settings, recordings)  # some models do not depend on the stimulus before
    for session, label in labels.items():
        counts = {"training": int((label == TRAIN).sum()), "validation": int((label == VALIDATION).sum())}
        log.info("session %s: %s bins, lag %d", session, counts, lag)
    return model, Fitted(labels, statistics, contexts)


def _session_windows(
    settings: Mapping[str, Any],
    recordings: Sequence[Recording],
    label: int,
    model: BaseCoreReadout,
    fitted: Fitted,
    device: torch.device,
) -> dict[str, SessionWindows]:
    cutmix = settings["dataloader"].get("cutmix") if label == TRAIN else None
    return {
        recording.session: SessionWindows(
            recording,
            fitted.labels[recording.session],
            label,
            lag=model.lag,
            window_length=settings["dataloader"]["window_length"],
            batch_size=settings["dataloader"]["batch_size"],
            statistics=fitted.statistics,
            device=device,
            context=fitted.contexts.get(recording.session),
            context_names=model.context_names,
            cutmix=None if cutmix is None else CutMix(**cutmix),
        )
        for recording in recordings
    }


def _with_sessions(trainer: Mapping[str, Any], n_sessions: int) -> dict[str, Any]:
    """Return the trainer's settings with the number of sessions in place of its name."""
    accumulated = trainer.get("accumulate_grad_batches", 1)
    return {**trainer, "accumulate_grad_batches": n_sessions if accumulated == SESSIONS else accumulated}


def _trainer(
    settings: Mapping[str, Any],
    callbacks: list[Callback],
    ranks: Ranks,
    work_dir: Path,
    accelerator: str,
    precision: str,
    loggers: Sequence[Any],
    progress_bar: bool | None,
) -> pl.Trainer:
    """Build the Lightning trainer; no wall-clock limit, because an undertrained member must not pass for a trained."""
    arguments = {name: value for name, value in settings.items() if name != "num_processes"}
    return pl.Trainer(
        **arguments,
        accelerator=_device(accelerator).type,
        devices=ranks.local_size,
        num_nodes=ranks.size // ranks.local_size,
        # a session's readout has gradients only where its batch is; running statistics are brought together after steps
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if ranks.size > 1 else "auto",
        plugins=[_environment(ranks)],
        use_distributed_sampler=False,
        precision=_precision(accelerator, precision),  # type: ignore[arg-type]
        callbacks=callbacks,
        logger=list(loggers) or False,
        default_root_dir=work_dir,
        enable_checkpointing=True,
        enable_progress_bar=sys.stderr.isatty() if progress_bar is None else progress_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        log_every_n_steps=1,
    )


def _ranks(trainer: Mapping[str, Any], accelerator: str) -> Ranks:
    """Return which rank this process is; raises ValueError for settings that ranks cannot share."""
    ranks = find_ranks(int(trainer.get("num_processes", 1)))
    if ranks.size > 1 and trainer.get("accumulate_grad_batches", 1) != 1:
        # where ranks accumulate, gradients of a session that is in no rank's last batch would never be brought together
        raise ValueError(
            f"trainer.num_processes={ranks.size} already accumulates the gradients of {ranks.size} batches: set "
            "trainer.accumulate_grad_batches=1, and num_processes to the number of batches per step"
        )
    if _device(accelerator).type == "cuda" and torch.cuda.device_count() < ranks.local_size:
        raise ValueError(
            f"{ranks.local_size} processes train on this node, which shows {torch.cuda.device_count()} GPU(s): "
            "ask for one GPU per process, all of them visible to every process"
        )
    return ranks


def _environment(ranks: Ranks) -> ClusterEnvironment:
    """Say how this process was started, so that Lightning does not guess from an allocation's variables.

    It never asks for a requeue of its own: who resubmits is the workflow's affair.
    """
    if ranks.launcher == "srun":
        return SLURMEnvironment(auto_requeue=False)
    if ranks.launcher == "torchrun":
        return TorchElasticEnvironment()
    environment = LightningEnvironment()
    environment.set_global_rank(0)  # on import Lightning took a task's number in its allocation for a rank
    return environment


def trained_with(accelerator: str = "auto", precision: str = "auto") -> dict[str, str]:
    """Return what of software and machine can move the last digits of a member's weights, and the code's commit."""
    return {"coread": code_version(), **_numerics(accelerator, precision)}


def resume_digest(*deciding: object, accelerator: str = "auto", precision: str = "auto") -> str:
    """Return a name for the work folder of a training: another for anything that decides the weights.

    `deciding` are settings, digests of recordings and code, fold and seed; torch, device and precision are added.
    """
    return hashlib.sha256(repr((deciding, _numerics(accelerator, precision))).encode()).hexdigest()[:16]


def _numerics(accelerator: str, precision: str) -> dict[str, str]:
    device = _device(accelerator).type
    return {"torch": str(torch.__version__), "device": device, "precision": _precision(accelerator, precision)}


def _device(accelerator: str, ranks: Ranks | None = None) -> torch.device:
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if ranks is None or ranks.size == 1 else torch.device("cuda", ranks.local_rank)


def _precision(accelerator: str, precision: str) -> str:
    """Return bf16 mixed precision where the GPU has it, single precision elsewhere, or what was asked for."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if _device(accelerator).type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def _fitted(statistics: Statistics) -> dict[str, Any]:
    return {
        "stim_mean": statistics.stim_mean,
        "stim_std": statistics.stim_std,
        "response_scale": statistics.response_scale,
        "mean_activity_dict": statistics.mean_activity,
    }


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)  # type: ignore[return-value]


def silence_lightning() -> None:
    """Hide warnings about choices made on purpose here, and advertisements."""
    for message in (
        "does not have many workers",
        "IterableDataset",
        "`isinstance.treespec, LeafSpec",
        "The `srun` command is available",
        "It is recommended to use `self.log.*sync_dist=True",
        "`broadcast_buffers` is deprecated",  # its successor came with torch 2.13
        "Grad strides do not match bucket view strides",
        r"Found \d+ module\(s\) in eval mode",  # a frozen core
    ):
        warnings.filterwarnings("ignore", f".*{message}")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Whether a message is about this training and not about another product."""
    return not record.getMessage().startswith("\N{ELECTRIC LIGHT BULB} Tip")
