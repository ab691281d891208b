"""Rounds of patience and averaged weights, on a model whose scores are scripted."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from coread.callbacks import KeepBest, SaveLast
from coread.lr_schedules import reduce_lr_on_plateau
from coread.models.core_readout import BaseCoreReadout
from coread.rounds_of_patience import RoundsOfPatience
from coread.weight_average import WeightAverage


class Scripted(pl.LightningModule):
    """One weight that grows by the learning rate with every step; its score is read from a list."""

    statistic: Tensor

    def __init__(self, scores: list[float], plateau: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("statistic", torch.zeros(()))
        self.scores, self.plateau = scores, plateau
        self.validated: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.statistic += 1
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(self.weight))
        self.log("val_correlation", self.scores[min(self.current_epoch, len(self.scores) - 1)])

    on_train_epoch_end = BaseCoreReadout.on_train_epoch_end  # which steps a schedule that watches a score

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        if not self.plateau:
            return optimizer
        schedule = reduce_lr_on_plateau(optimizer, 0, factor=0.3, patience=5, threshold=1e-6, min_lr=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": schedule._asdict() | {"frequency": 2**31}}


class Journal(Callback):
    """Learning rate and weight at the start of every epoch."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.weights.append(float(pl_module.weight.detach()))


def fit(
    module: pl.LightningModule,
    *callbacks: Callback,
    max_epochs: int = 60,
    batches: int = 1,
    accumulate: int = 1,
    **more: Any,
) -> Journal:
    journal = Journal()
    data = DataLoader(TensorDataset(torch.zeros(batches, 1)))
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        callbacks=[journal, *callbacks],
        logger=False,
        enable_checkpointing=any(isinstance(callback, SaveLast) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, data, **more)
    return journal


def test_restore_and_decay_are_one_event() -> None:
    rounds = RoundsOfPatience(rounds=4, patience=5)
    journal = fit(Scripted([0.5]), rounds)
    # epoch 1 is the best; five flat ones end a round, so rounds begin with epochs 7, 12 and 17
    assert journal.rates == pytest.approx([1.0] * 6 + [0.3] * 5 + [0.09] * 5 + [0.027] * 5)
    starts = [epoch for epoch in range(1, 21) if journal.weights[epoch] < journal.weights[epoch - 1]]
    assert starts == [6, 11, 16]
    assert [journal.weights[epoch] for epoch in starts] == [1.0, 1.0, 1.0]  # the weight after epoch 1
    assert float(rounds.best_weights["weight"]) == 1.0
    assert float(rounds.best_weights["statistic"]) == 1.0, "buffers go back with the weights"
    assert rounds.best_epoch == 0


def test_an_improvement_begins_the_patience_anew_and_small_ones_do_not_count() -> None:
    scores = [0.1, 0.1 + 5e-7, 0.1, 0.2, 0.2, 0.2, 0.3, *[0.0] * 10]
    rounds = RoundsOfPatience(rounds=1, patience=3)
    journal = fit(Scripted(scores), rounds)
    assert len(journal.rates) == 10  # three epochs after the seventh
    assert rounds.best_epoch == 6
    assert rounds.best_score == pytest.approx(0.3)


def test_the_rate_stops_at_its_lowest() -> None:
    journal = fit(Scripted([0.5]), RoundsOfPatience(rounds=4, patience=2, factor=0.1, min_lr=0.05))
    assert sorted(set(journal.rates)) == pytest.approx([0.05, 0.1, 1.0])


def test_published_rounds_and_plateaus_are_out_of_step() -> None:
    """Restores at bad epochs 5, 10, 15, lower rates only from bad epochs 6, 12, 18: PyTorch's own schedule."""
    journal = fit(Scripted([0.5], plateau=True), RoundsOfPatience(rounds=4, patience=5, factor=None))
    restores = [epoch for epoch in range(1, len(journal.weights)) if journal.weights[epoch] == 1.0 and epoch > 1]
    drops = [epoch for epoch in range(1, len(journal.rates)) if journal.rates[epoch] < journal.rates[epoch - 1]]
    # the first epoch is the best, so an epoch comes after as many bad ones as its number less one
    assert [epoch - 1 for epoch in restores] == [5, 10, 15]
    assert [epoch - 1 for epoch in drops] == [6, 12, 18]
    assert [journal.rates[epoch] for epoch in drops] == pytest.approx([0.3, 0.09, 0.027])


def test_moments_are_kept_unless_they_shall_be_forgotten() -> None:
    class Adam(Scripted):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.1)

    class Steps(Callback):
        counts: list[int]

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            state = trainer.optimizers[0].state
            self.counts.append(int(next(iter(state.values()))["step"]) if state else 0)

    for reset, expected in ((False, [1, 2, 3, 4]), (True, [1, 2, 0, 1])):
        steps = Steps()
        steps.counts = []
        fit(Adam([0.5]), RoundsOfPatience(patience=2, reset_optimizer=reset), steps, max_epochs=4)
        assert steps.counts == expected


def test_a_schedule_or_averaged_weights_beside_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rounds_of_patience and lr_scheduler both set the learning rate"):
        fit(Scripted([0.5], plateau=True), RoundsOfPatience())
    with pytest.raises(ValueError, match=r"weights that weight_average never had"):
        fit(Scripted([0.5]), RoundsOfPatience(), WeightAverage())
    with pytest.raises(ValueError, match=r"found rounds 0, patience 5, factor 0\.3"):
        RoundsOfPatience(rounds=0)


def test_the_average_is_validated_and_kept_and_the_weights_go_on() -> None:
    module, best = Scripted([0.1, 0.2, 0.3]), KeepBest()
    journal = fit(module, best, WeightAverage(decay=0.75), max_epochs=3, batches=2)
    average, expected = 0.0, []
    for step in range(1, 7):
        decay = min(0.75, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * step
        expected.append(average)
    assert module.validated[::2] == pytest.approx(expected[1::2])
    assert float(best.best_weights["weight"]) == pytest.approx(expected[-1])
    assert float(best.best_weights["statistic"]) == pytest.approx(expected[-1])  # running statistics too
    assert journal.weights == [0.0, 2.0, 4.0]
    assert float(module.weight) == 6.0


def test_batches_of_one_step_are_averaged_once() -> None:
    module, average = Scripted([0.1]), WeightAverage(decay=0.5)
    fit(module, KeepBest(), average, max_epochs=1, batches=4, accumulate=2)
    assert average.steps == 2
    first = (1 - 2 / 11) * 1.0
    assert float(average.average["weight"]) == pytest.approx(3 / 12 * first + (1 - 3 / 12) * 2.0)


@pytest.mark.parametrize("recipe", ["rounds", "average"])
def test_a_resumed_training_goes_on_where_it_was(tmp_path: Any, recipe: str) -> None:
    def callbacks() -> list[Callback]:
        last = SaveLast(tmp_path / f"{recipe}.ckpt")
        if recipe == "rounds":
            return [RoundsOfPatience(rounds=3, patience=2), last]
        return [KeepBest(), WeightAverage(decay=0.9), last]

    scores = [0.1, 0.5, 0.4, 0.3, 0.2, 0.6, *[0.0] * 20]
    whole = fit(Scripted(scores), *(kept := callbacks()), max_epochs=12)
    fit(Scripted(scores), *callbacks(), max_epochs=5)
    resumed_callbacks = callbacks()
    resumed = fit(
        Scripted(scores), *resumed_callbacks, max_epochs=12, ckpt_path=tmp_path / f"{recipe}.ckpt", weights_only=True
    )
    assert resumed.rates == whole.rates[5:]
    assert resumed.weights == whole.weights[5:]
    assert kept[0].best_weights == resumed_callbacks[0].best_weights  # type: ignore[attr-defined]
