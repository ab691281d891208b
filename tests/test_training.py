"""Training of a member: resume after a kill, independence of test data, clear errors."""

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coread.data_io.splits import METHODS, TEST, TRAIN, SplitError
from coread.data_io.statistics import QualityError
from coread.models.causality import is_model_causal
from coread.models.member import MemberError, load_member
from coread.training import train
from coread.training_checks import lowest_responses
from tests.conftest import REPOSITORY, fabricate_recording

SETTINGS = {
    "splits": {"method": "folds", "n_folds": 3, "clip_length": 40, "seed": 0},
    "dataloader": {"window_length": 24, "batch_size": 4, "normalize_stimulus": True, "response_scale": "none"},
    "model": {
        "_target_": "coread.models.core_readout.UnifiedCoreReadout",
        "learning_rate": 0.01,
        "hidden_channels": [3],
        "core": {
            "_target_": "coread.modules.core.base_core.SimpleCoreWrapper",
            "temporal_kernel_sizes": [4],
            "spatial_kernel_sizes": [3],
            "gamma_input": 0.01,
            "gamma_temporal": 0.01,
            "gamma_in_sparse": 0.0,
            "gamma_hidden": 0.0,
            "dropout_rate": 0.2,
        },
        "readout": {"_target_": "coread.modules.readout.multi_readout.MultiGaussianReadoutWrapper"},
    },
    "loss": {"_target_": "coread.modules.losses.poisson.PoissonLoss3d"},
    "initialization": {"method": "sta", "n_lags": 3, "smoothing_px": 0.5, "spread": 0.2},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "weight_decay": 0.01},
    "lr_scheduler": {
        "_target_": "torch.optim.lr_scheduler.OneCycleLR",
        "_partial_": True,
        "max_lr": 0.01,
        "pct_start": 0.3,
        "cycle_momentum": False,
    },
    "trainer": {"max_epochs": 5, "gradient_clip_val": 1.0},
    "training_callbacks": {},
    "quality_checks": {"allow_constant_neurons": False},
}


def sessions():
    """Two sessions of different size, so that the shorter one starts again within an epoch."""
    return [fabricate_recording("a", n_trials=4), fabricate_recording("b", n_trials=3, n_neurons=3, seed=1)]


def fit(tmp_path, recordings=None, settings=SETTINGS, fold=0, seed=0):
    """Train as a script does: the work folder goes once the member is there."""
    recordings = sessions() if recordings is None else recordings
    member = train(settings, recordings, fold, seed, work_dir=tmp_path / "work", accelerator="cpu")
    shutil.rmtree(tmp_path / "work")
    return member


def assert_same_weights(one, other):
    assert one.model.state_dict().keys() == other.model.state_dict().keys()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


def test_the_same_seed_gives_the_same_member_and_another_does_not(tmp_path):
    one, again, other = fit(tmp_path), fit(tmp_path), fit(tmp_path, seed=1)
    assert_same_weights(one, again)
    assert not torch.equal(
        one.model.core.features[0].conv.weight_spatial, other.model.core.features[0].conv.weight_spatial
    )


KILLED = """
    import os, signal, sys
    import coread.callbacks as callbacks
    from pathlib import Path
    from tests.test_training import SETTINGS, sessions
    from coread.training import train

    place, epoch, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    class Killer(callbacks.Callback):
        def on_train_batch_end(self, trainer, *_):
            if place == "batch" and trainer.current_epoch == epoch:
                die()

        def on_validation_start(self, trainer, *_):
            if place == "validation" and trainer.current_epoch == epoch:
                die()

        def on_train_epoch_start(self, trainer, *_):
            if place == "epoch" and trainer.current_epoch == epoch:
                die()

    if place == "saving":
        original = callbacks.SaveLast.on_train_epoch_end

        def half_written(self, trainer, module):
            if trainer.current_epoch == epoch:
                self.path.with_name(".last.ckpt.0.tmp").write_bytes(b"half")
                die()
            original(self, trainer, module)

        callbacks.SaveLast.on_train_epoch_end = half_written
    import coread.training as training
    plain = training._trainer
    training._trainer = lambda s, c, *rest: plain(s, [Killer(), *c], *rest)
    train(SETTINGS, sessions(), 0, 0, work_dir=work, accelerator="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "epoch"), [("batch", 0), ("batch", 2), ("validation", 3), ("epoch", 1), ("saving", 2)]
)
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, place, epoch):
    whole = fit(tmp_path / "whole")
    work = tmp_path / "killed" / "work"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), place, str(epoch), str(work)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == -9, result.stderr
    assert (work / "last.ckpt").exists() == (epoch > 0)
    resumed = fit(tmp_path / "killed")
    assert_same_weights(whole, resumed)
    columns = [column for column in whole.history if column != "seconds"]
    assert resumed.history[columns].equals(whole.history[columns])


EARLY_STOPPING = {
    "early_stopping": {
        "_target_": "pytorch_lightning.callbacks.EarlyStopping",
        "monitor": "val_correlation",
        "mode": "max",
        "patience": 1,
    }
}


@pytest.mark.parametrize("stop", [{}, {"training_callbacks": EARLY_STOPPING, "lr_scheduler": None}])
def test_a_kill_between_training_and_saving_loses_nothing(tmp_path, stop):
    settings = SETTINGS | stop | {"trainer": {"max_epochs": 20 if stop else 5}}
    first = train(settings, sessions(), 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    again = train(settings, sessions(), 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    assert len(first.history) < 20
    assert_same_weights(first, again)
    assert first.history.equals(again.history)


def test_test_tier_responses_change_nothing(tmp_path):
    reference = fit(tmp_path)
    altered = []
    for recording in sessions():
        responses = recording.responses.copy()
        test = recording.bin_column("tier") == "test"
        responses[test] = np.random.default_rng(9).random(responses[test].shape) * 50
        altered.append(replace(recording, responses=responses))
    changed = fit(tmp_path, altered)
    assert_same_weights(reference, changed)
    assert changed.data_info["stim_mean"] == reference.data_info["stim_mean"]
    columns = [column for column in reference.history if column != "seconds"]
    assert changed.history[columns].equals(reference.history[columns])


def test_a_saved_member_predicts_the_same_and_holds_no_code(tmp_path):
    member = fit(tmp_path)
    member.save(tmp_path / "model.ckpt")
    back = load_member(tmp_path / "model.ckpt")
    assert not back.model.training
    assert_same_weights(member, back)
    stimulus = torch.randn(back.model.stimulus_shape(10))
    torch.testing.assert_close(back.model(stimulus, "b"), member.model(stimulus, "b"), rtol=0, atol=0)
    assert (back.fold, back.seed) == (0, 0)
    assert back.history.equals(member.history)
    assert back.model.data_info["model_config"]["hidden_channels"] == [3]
    assert is_model_causal(back.model)


def test_best_epoch_is_restored(tmp_path):
    rates = {"learning_rate": 0.5}
    settings = SETTINGS | {"model": SETTINGS["model"] | rates, "lr_scheduler": None, "trainer": {"max_epochs": 6}}
    member = fit(tmp_path, settings=settings)
    best = int(member.history["val_correlation"].argmax())
    assert best < 5, "the test needs a training that gets worse"
    shorter = fit(tmp_path, settings=settings | {"trainer": {"max_epochs": best + 1}})
    assert_same_weights(member, shorter)


def test_a_damaged_member_is_named(tmp_path):
    path = tmp_path / "model.ckpt"
    fit(tmp_path).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(MemberError, match=r"model\.ckpt: not a readable member"):
        load_member(path)
    with pytest.raises(MemberError, match=r"absent\.ckpt: there is no such member"):
        load_member(tmp_path / "absent.ckpt")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(MemberError, match=r"not a coread member of format 1"):
        load_member(path)


def constant_neuron(recording):
    responses = recording.responses.copy()
    responses[:, 2] = 1.0
    return replace(recording, responses=responses)


@pytest.mark.parametrize(
    ("recordings", "settings", "fold", "error", "message"),
    [
        ([constant_neuron(fabricate_recording("a"))], {}, 0, QualityError, r"'a': 1 of 4 neurons never change.*\[2\]"),
        (None, {}, 3, SplitError, "fold 3 does not exist"),
        (None, {"initialization": {"method": "stta"}}, 0, ValueError, "initialization method 'stta' is unknown"),
        (
            [replace(fabricate_recording("a"), rate_hz=60.0), fabricate_recording("b")],
            {},
            0,
            ValueError,
            "share rate_hz",
        ),
        ([fabricate_recording("a"), fabricate_recording("b", shape=(1, 6, 9))], {}, 0, ValueError, "height, width"),
        (
            None,
            {"dataloader": SETTINGS["dataloader"] | {"window_length": 2}},
            0,
            Exception,
            "core cannot take an input",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path, recordings, settings, fold, error, message):
    with pytest.raises(error, match=message):
        fit(tmp_path, recordings, SETTINGS | settings, fold)


CLIPS = {"clip_length": 40, "clips": [1], "n_clips": 1, "n_folds": 3, "seed": 0}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "published"])
def test_models_that_see_the_future_are_refused_where_parts_of_a_stimulus_are_held_out(tmp_path, method):
    core = SETTINGS["model"]["core"] | {"input_padding": [1, 1, 1]}
    splits = CLIPS | {"method": method, "train_fraction": 0.5, "together": []}
    settings = SETTINGS | {"model": SETTINGS["model"] | {"core": core}, "splits": splits}
    recording = fabricate_recording("a", n_trials=4)
    tiers = ["validation", "train", "train", "train"] + ["test"] * 4
    recording = replace(recording, trials=recording.trials.assign(tier=tiers))
    with pytest.raises(ValueError, match="sees later frames than its own"):
        fit(tmp_path, [recording], settings)


def signed(recording):
    """Return the recording with responses below zero: of one neuron in training, of another in test bins only."""
    responses = recording.responses.copy()
    responses[:, 1] -= 0.5
    responses[recording.bin_column("tier") == "test", 0] = -7.0
    return replace(recording, responses=responses)


def test_a_poisson_loss_refuses_negative_training_responses(tmp_path):
    from coread.recording import read_recordings, write_recording

    write_recording(signed(fabricate_recording("a", n_trials=4)), tmp_path / "a.h5")
    streamed = read_recordings([tmp_path / "a.h5"], memory_budget_bytes=0)
    message = r"'a': 1 of 4 neurons have negative responses in .* fold 1, down to -0\.5, .*loss=mse.*trace_type=spikes"
    with pytest.raises(QualityError, match=message):
        fit(tmp_path, streamed, fold=1)
    fit(tmp_path, streamed, SETTINGS | {"loss": {"_target_": "coread.modules.losses.MSE3d"}})


def test_responses_are_looked_through_in_chunks(monkeypatch):
    recording = signed(fabricate_recording("a", n_trials=4))
    labels = np.where(recording.bin_column("tier") == "train", TRAIN, TEST).astype(np.int8)
    monkeypatch.setattr("coread.training_checks.CHUNK_VALUES", 4 * 7)
    lowest = lowest_responses(recording, labels)
    np.testing.assert_array_equal(lowest, recording.responses[labels == TRAIN].min(axis=0))
    assert lowest.tolist() == [0.0, -0.5, 0.0, 0.0]


def test_constant_neurons_can_be_allowed(tmp_path):
    settings = SETTINGS | {"quality_checks": {"allow_constant_neurons": True}}
    member = fit(tmp_path, [constant_neuron(fabricate_recording("a"))], settings)
    assert np.isfinite(member.history["val_correlation"]).all()


def test_a_diverged_training_is_an_error_and_no_member(tmp_path):
    model = SETTINGS["model"] | {"learning_rate": 1e30}
    settings = SETTINGS | {"model": model, "lr_scheduler": None, "trainer": {"max_epochs": 3}}
    with pytest.raises(ValueError, match=r"the training loss is nan in epoch 1: lower model\.learning_rate"):
        fit(tmp_path, settings=settings)


def test_streamed_training_equals_loaded_training(tmp_path):
    from coread.recording import read_recordings, write_recording

    paths = [Path(tmp_path / f"{recording.session}.h5") for recording in sessions()]
    for recording, path in zip(sessions(), paths, strict=True):
        write_recording(recording, path)
    streamed = read_recordings(paths, memory_budget_bytes=0)
    assert_same_weights(fit(tmp_path), fit(tmp_path, streamed))
