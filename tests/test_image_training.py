"""Training of models of single images: what they are told beside the stimulus, test data, resume, extension."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import Callback

from coread.data_io.context import ContextError
from coread.data_io.splits import TRAIN
from coread.eval.predictions import predict, predict_member
from coread.models.causality import is_model_causal
from coread.models.ensemble import EnsembleModel
from coread.models.extension import CoreMismatchError, add_sessions, model_digest
from coread.models.member import Member, load_member
from coread.models.pretrained.folder import read_member
from coread.models.pretrained.safe_pickle import CheckpointError
from coread.models.publish import Statement, publish
from coread.models.typical_context import respond_typically, typical_context
from coread.training import train
from tests.static_recording import fabricate_static_recording, image_settings, with_other_responses

ROUNDS = {"rounds": {"_target_": "coread.rounds_of_patience.RoundsOfPatience", "rounds": 2, "patience": 1}}
MODERN: dict[str, Any] = {
    "dataloader": image_settings()["dataloader"] | {"cutmix": {"alpha": 1.0, "probability": 0.5}},
    "lr_scheduler": {"_target_": "coread.lr_schedules.warmup_cosine", "_partial_": True, "max_lr": 0.02},
    "training_callbacks": {"average": {"_target_": "coread.weight_average.WeightAverage", "decay": 0.9}},
    "trainer": {"max_epochs": 4, "accumulate_grad_batches": "sessions"},
}
PUBLISHED: dict[str, Any] = {
    "training_callbacks": ROUNDS,
    "trainer": {"max_epochs": 8, "accumulate_grad_batches": "sessions"},
}


def sessions() -> list[Any]:
    return [fabricate_static_recording("mouse-1-1"), fabricate_static_recording("mouse-2-1", n_neurons=3, seed=1)]


def fit(
    folder: Path, recordings: list[Any] | None = None, settings: dict[str, Any] | None = None, **more: Any
) -> Member:
    arguments = {"fold": 1, "seed": 100} | more
    return train(
        image_settings() if settings is None else settings,
        sessions() if recordings is None else recordings,
        work_dir=folder / "work",
        accelerator="cpu",
        **arguments,
    )


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Member:
    """A member with everything that Model 4 has."""
    return fit(tmp_path_factory.mktemp("member"))


def assert_same(one: Member, other: Member) -> None:
    state = other.model.state_dict()
    assert one.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in one.model.state_dict().items())
    columns = [column for column in one.history if column != "seconds"]
    assert one.history[columns].equals(other.history[columns])


def plain(tree: Any) -> Any:
    """Return a tree of tensors that `==` compares."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return tree.tolist() if isinstance(tree, torch.Tensor) else tree


# ---------------------------------------------------------------------------------------------------------- test data


@pytest.mark.parametrize("recipe", [PUBLISHED, MODERN], ids=["published", "modern"])
def test_responses_of_test_tiers_change_nothing(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Weights, regressors, statistics and validation scores stay the same to the bit."""
    settings = image_settings(**recipe)
    reference = fit(tmp_path / "one", settings=settings)
    altered = [with_other_responses(recording, ("test", "final_test")) for recording in sessions()]
    changed = fit(tmp_path / "other", altered, settings)
    assert_same(reference, changed)
    for key in ("regressors", "typical_context", "labels", "response_scale", "mean_activity_dict", "stim_mean"):
        assert plain(reference.data_info[key]) == plain(changed.data_info[key]), key
    for one, other in zip(sessions(), altered, strict=True):
        expected = predict(reference.model, one, reference.data_info)
        np.testing.assert_array_equal(predict(changed.model, other, changed.data_info), expected)  # and their inputs


# ------------------------------------------------------------------------------------------------------------- resume


class Stop(Callback):
    """Fail in the middle of an epoch, as a kill would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("recipe", [PUBLISHED, MODERN], ids=["published", "modern"])
def test_a_training_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path, recipe: dict[str, Any]) -> None:
    settings = image_settings(**recipe)
    whole = fit(tmp_path / "whole", settings=settings)
    assert len(whole.history) > 3
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "cut", settings=settings, callbacks=[Stop(2)])
    assert (tmp_path / "cut" / "work" / "last.ckpt").exists()
    assert_same(whole, fit(tmp_path / "cut", settings=settings))


def test_one_step_takes_a_batch_of_every_session(tmp_path: Path) -> None:
    class Count(Callback):
        steps = 0

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            Count.steps = trainer.global_step

    one_epoch = {"max_epochs": 1, "accumulate_grad_batches": "sessions"}
    fit(tmp_path, settings=image_settings(trainer=one_epoch), callbacks=[Count()])
    assert Count.steps == 3  # 48 training images of each session in batches of 16


# -------------------------------------------------------------------------------------------------------- predictions


def test_repeats_of_an_image_have_predictions_of_their_own(member: Member) -> None:
    recording = sessions()[0]
    predictions = predict_member(member, [recording], experiment="x").sessions[recording.session]
    tier, frame = recording.trials["tier"].to_numpy(), recording.frame
    repeats = predictions.prediction[(tier == "test") & (frame == frame[tier == "test"][0])]
    assert np.isfinite(repeats).all()
    assert len(np.unique(repeats.round(6), axis=0)) == len(repeats)
    assert np.isfinite(predictions.prediction[tier == "final_test"]).all(), "withheld trials are predicted"
    assert np.isnan(predictions.prediction[predictions.label == TRAIN]).all()


def test_a_prediction_does_not_depend_on_its_batch(member: Member) -> None:
    recording = sessions()[1]
    expected = predict(member.model.train(), recording, member.data_info, batch_bins=1000)
    alone = predict(member.model, recording, member.data_info, batch_bins=1)
    member.model.eval()
    np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-6)


def test_predictions_are_those_of_the_model_with_the_trials_own_context(member: Member) -> None:
    """Against the model called by hand: history from the responses before, behaviour by minimum and maximum."""
    recording = sessions()[0]
    session, label = recording.session, member.data_info["labels"]["mouse-1-1"].numpy()
    scale = member.data_info["response_scale"][session].numpy()
    known, order = np.isin(label, (0, 1)), recording.trials["time_order"].to_numpy()
    bin_index = int(np.flatnonzero((recording.trials["tier"] == "test") & (order > 20))[0])
    before = np.flatnonzero(known & (order < order[bin_index]))
    before = before[np.argsort(order[before])]
    scaled = recording.responses[before] / scale
    history = np.stack([scaled[-lag:].mean(axis=0) for lag in (1, 2, 5)], axis=-1)
    context = member_context(member, recording, bin_index)
    np.testing.assert_allclose(context["history"][0, 0].numpy(), history, rtol=1e-5)
    counted = recording.behaviour[label == TRAIN]
    running = np.abs(recording.behaviour[bin_index, 2]) / np.abs(counted[:, 2]).max()
    assert float(context["behaviour"][0, 0, 2]) == pytest.approx(running, rel=1e-5)
    info = member.data_info
    pixels = recording.stimuli["images"].frames[recording.frame[bin_index]].astype(np.float32)
    image = (torch.from_numpy(pixels)[None, :, None] - info["stim_mean"]) / info["stim_std"]
    with torch.no_grad():
        by_hand = member.model.eval()(image, session, **context)[0, 0].numpy() * scale
    np.testing.assert_allclose(predict(member.model, recording, info)[bin_index], by_hand, rtol=1e-4)


def member_context(member: Member, recording: Any, bin_index: int) -> dict[str, torch.Tensor]:
    from coread.data_io.context import bind_context

    context = bind_context(recording, member.data_info)
    return context.at(np.array([[bin_index]]), member.model.context_names, "cpu")


def test_another_recording_under_the_same_name_is_refused(member: Member) -> None:
    shorter = sessions()[0]
    shorter = replace(
        shorter,
        trials=shorter.trials.iloc[:-1].assign(time_order=np.arange(len(shorter.trials) - 1)),
        **{
            name: getattr(shorter, name)[:-1]
            for name in ("trial", "frame", "responses", "valid", "behaviour", "pupil_center")
        },
    )
    with pytest.raises(ContextError, match=r"'mouse-1-1': the member was trained on 78 bins, the recording has 77"):
        predict(member.model, shorter, member.data_info)


def test_an_ensemble_is_the_mean_of_members_with_maps_of_their_own(member: Member, tmp_path: Path) -> None:
    other = fit(tmp_path, fold=2, seed=101)
    recording = sessions()[0]
    assert plain(member.data_info["labels"]) != plain(other.data_info["labels"])
    parts = [predict(part.model, recording, part.data_info) for part in (member, other)]
    ensemble = EnsembleModel(member.model, other.model)
    found = predict(ensemble, recording, ensemble.data_info)
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)


def test_members_of_an_ensemble_are_told_their_own_means(member: Member, tmp_path: Path) -> None:
    other = fit(tmp_path, fold=2, seed=101)
    ensemble = EnsembleModel(member.model, other.model).eval()
    stimulus = torch.randn(ensemble.stimulus_shape(1, 3))
    with torch.no_grad():
        own = []
        for part in ensemble.members:
            (factor, offset) = EnsembleModel._between(member.model, part)
            scale = [model.data_info["response_scale"]["mouse-1-1"] for model in (part, member.model)]
            own.append(respond_typically(part, stimulus * factor + offset, "mouse-1-1") * (scale[0] / scale[1]))
        together = respond_typically(ensemble, stimulus, "mouse-1-1")
        torch.testing.assert_close(together, torch.stack(own).mean(0))
        with pytest.raises(ValueError, match="states of the network of their own"):
            ensemble(stimulus, "mouse-1-1", **typical_context(member.model, "mouse-1-1", 3, 1))


# ---------------------------------------------------------------------------------------- files, causality, extension


def test_members_keep_what_they_are_told_through_files(member: Member, tmp_path: Path) -> None:
    path = tmp_path / "results" / "x" / "fold1" / "seed100" / "model.ckpt"
    member.save(path)
    publish([path], tmp_path / "published", Statement("images"))
    recording = sessions()[0]
    expected = predict(member.model, recording, member.data_info)
    for back in (load_member(path), read_member(tmp_path / "published")):
        np.testing.assert_array_equal(predict(back.model, recording, back.data_info), expected)
        assert is_model_causal(back.model)
    card = (tmp_path / "published" / "README.md").read_text()
    assert "| modulator | `HistoryStateGainModulator` |" in card
    assert "responses = predict(model, recording, model.data_info)" in card
    (tmp_path / "published" / "context.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"context\.safetensors: .*altered"):
        read_member(tmp_path / "published")


def test_a_new_session_gets_every_part_on_the_same_core(member: Member, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    member.save(path)
    model = load_member(path).model
    new = fabricate_static_recording("mouse-3-1", n_neurons=4, seed=2)
    tables = {"mouse-3-1": {name: new.neurons[name].tolist() for name in new.neurons}}
    add_sessions(
        model,
        {"mouse-3-1": 4},
        {"mouse-3-1": torch.ones(4)},
        n_trials_dict={"mouse-3-1": len(new.trials)},
        neurons_dict=tables,
    )
    assert {"mouse-1-1", "mouse-2-1", "mouse-3-1"} == set(model.modulator) == set(model.shifter)  # type: ignore[arg-type]
    assert model.modulator["mouse-3-1"].own_gain.shape == (len(new.trials),)  # type: ignore[index, union-attr]
    before = dict(member.model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name in before)


def test_members_can_start_from_a_trained_core_of_images(member: Member, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    member.save(path)
    start = {"_target_": "coread.models.extension.PretrainedCore", "model": "old", "sha256": model_digest(path)}
    settings = image_settings(pretrained_core=start)
    new = fit(tmp_path / "new", [fabricate_static_recording("mouse-3-1", seed=2)], settings, model_files={"old": path})
    old = member.model.core.state_dict()
    assert all(torch.equal(value, old[name]) for name, value in new.model.core.state_dict().items())
    regressors = image_settings()["regressors"]
    assert regressors["behaviour"]["scheme"] == "unit_range"
    settings = image_settings(pretrained_core=start, regressors=regressors | {"behaviour": {"scheme": "std"}})
    told = r"trained with \|?pupil.*\|running_speed\|; the new sessions have .*, running_speed: choose the `regressors`"
    with pytest.raises(CoreMismatchError, match=told):
        fit(tmp_path / "std", [fabricate_static_recording("mouse-3-1", seed=2)], settings, model_files={"old": path})


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("recordings", "settings", "message"),
    [
        ([fabricate_static_recording("mouse.1")], {}, r"session 'mouse\.1': weights cannot be named after it"),
        ([fabricate_static_recording("keys")], {}, r"session 'keys': weights cannot be named after it"),
        (
            None,
            {"regressors": None},
            r"the model wants \['behaviour', .*\] beside the stimulus, but .*regressors: default",
        ),
        (None, {"training_callbacks": {"rounds": {"patience": 3}}}, r"training_callbacks\.rounds has no _target_"),
        (None, {"regressors": image_settings()["regressors"] | {"history": None}}, r"set regressors\.history"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    tmp_path: Path, recordings: list[Any] | None, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, recordings, image_settings(**settings))
    shutil.rmtree(tmp_path)
