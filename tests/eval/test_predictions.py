from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from coread.data_io.splits import TEST, TRAIN, VALIDATION
from coread.eval.predictions import (
    MemberPredictions,
    PredictionError,
    SessionPrediction,
    predict,
    predict_member,
    read_predictions,
    write_predictions,
)
from coread.modules.core import ConditionedGRUCore, ConvGRUCore
from coread.recording import Recording, Stimulus, content_digest, read_recording, write_recording

LAG, N_NEURONS = 3, 5
DATA_INFO = {
    "stim_mean": 40.0,
    "stim_std": 25.0,
    "response_scale": {"a": torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5])},
}


class ToyModel(nn.Module):
    """A causal model with layers whose train mode mixes the batch, and that counts the bins it is shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lag = LAG
        self.norm = nn.BatchNorm3d(1)
        self.conv = nn.Conv3d(1, N_NEURONS, (LAG + 1, 4, 6))
        self.dropout = nn.Dropout(0.5)
        self.batches: list[int] = []
        nn.init.constant_(self.norm.running_mean, 0.3)
        self.conv.eval()  # a frozen part must stay frozen

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        self.batches.append(x.shape[0] * x.shape[2])
        assert not torch.is_grad_enabled()
        return torch.tanh(self.dropout(self.conv(self.norm(x))))[..., 0, 0].movedim(1, 2)


def make_recording() -> Recording:
    """Three repeats of a test movie between training movies, a blank before each, one short trial."""
    rng = np.random.default_rng(1)
    stimuli = {
        "movie": Stimulus(rng.integers(0, 256, (120, 1, 4, 6)).astype(np.uint8), 60.0, 0.5, -10.0, blank_value=7.0),
        "probe": Stimulus(rng.integers(0, 256, (40, 1, 4, 6)).astype(np.uint8), 60.0, 0.5, -10.0, blank_value=7.0),
    }
    names = ["movie", "probe", "movie", "probe", "probe", "movie"]
    shown = [np.arange(60), np.arange(40), np.arange(60, 120), np.arange(40), np.arange(40), np.arange(2)]
    frames = [np.concatenate([[-1], frame]) for frame in shown]
    trials = pd.DataFrame(
        {
            "stimulus": names,
            "tier": ["test" if name == "probe" else "train" for name in names],
            "repeat": [0, 0, 0, 1, 2, 0],
            "time_order": range(6),
            "withheld": False,
        }
    )
    trial = np.repeat(np.arange(6), [len(frame) for frame in frames]).astype(np.int32)
    return Recording(
        dataset="toy",
        session="a",
        stimuli=stimuli,
        trials=trials,
        trial=trial,
        frame=np.concatenate(frames).astype(np.int32),
        responses=rng.poisson(1.0, (len(trial), N_NEURONS)).astype(np.float32),
        valid=np.ones(len(trial), bool),
        rate_hz=60.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": range(N_NEURONS)}),
    )


def naive_prediction(model: ToyModel, recording: Recording) -> np.ndarray:
    """One bin at a time, from its own frame and the LAG before it."""
    model.eval()
    predicted = np.full((recording.n_bins, N_NEURONS), np.nan, np.float32)
    for bin_index in np.flatnonzero(recording.bin_in_trial() >= LAG):
        stimulus = recording.stimuli[recording.trials["stimulus"].iloc[recording.trial[bin_index]]]
        window = []
        for frame in recording.frame[bin_index - LAG : bin_index + 1]:
            value = stimulus.frames[frame].astype(np.float32) * stimulus.scale + stimulus.offset
            value = np.full_like(value, stimulus.blank_value) if frame == -1 else value
            value = {"none": value, "width": value[..., ::-1], "height": value[:, ::-1]}[recording.mirror]
            window.append((value - 40.0) / 25.0)
        inputs = torch.as_tensor(np.array(window, np.float32)).movedim(0, 1)[None]
        with torch.no_grad():
            predicted[bin_index] = (model(inputs)[0, 0] * DATA_INFO["response_scale"]["a"]).numpy()
    return predicted


@pytest.mark.parametrize("mirror", ["none", "width", "height"])
@pytest.mark.parametrize("batch_bins", [LAG + 1, 17, 50, 100_000])
def test_prediction_equals_the_naive_loop_whatever_shares_its_batch(mirror: str, batch_bins: int) -> None:
    recording, model = replace(make_recording(), mirror=mirror), ToyModel()
    predicted = predict(model, recording, DATA_INFO, batch_bins=batch_bins)
    np.testing.assert_allclose(predicted, naive_prediction(model, recording), atol=1e-5)
    assert np.isnan(predicted[recording.bin_in_trial() < LAG]).all()


def test_repeats_are_computed_once_and_batches_stay_within_their_limit() -> None:
    recording, model = make_recording(), ToyModel()
    predict(model, recording, DATA_INFO, batch_bins=100_000)
    assert sum(model.batches) == 2 * 61 + 41, "two training trials and one of the three repeats"
    model.batches.clear()
    predict(model, recording, DATA_INFO, batch_bins=20)
    assert max(model.batches) <= 20


def test_every_module_gets_its_own_mode_back() -> None:
    model = ToyModel().train()
    model.conv.eval()
    before = {name: module.training for name, module in model.named_modules()}
    predict(model, make_recording(), DATA_INFO)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert before["norm"]
    assert not before["conv"]


def test_lazily_read_frames_give_the_same_prediction(tmp_path: Path) -> None:
    recording, model = make_recording(), ToyModel()
    write_recording(recording, tmp_path / "a.h5")
    lazy = read_recording(tmp_path / "a.h5", load_frames=False)
    expected = predict(model, recording, DATA_INFO, batch_bins=30)
    np.testing.assert_array_equal(predict(model, lazy, DATA_INFO, batch_bins=30), expected)


def test_only_wanted_bins_are_computed() -> None:
    recording, model = make_recording(), ToyModel()
    wanted = np.zeros(recording.n_bins, bool)
    wanted[20:30] = True
    predicted = predict(model, recording, DATA_INFO, bins=wanted)
    assert model.batches == [10 + LAG]
    np.testing.assert_allclose(predicted[20:30], naive_prediction(model, recording)[20:30], atol=1e-5)
    assert np.isnan(predicted[~wanted]).all()


def test_a_model_that_does_not_fit_the_recording_is_named() -> None:
    recording = replace(make_recording(), session="b")
    with pytest.raises(PredictionError, match="session 'b' is not one the model was trained on: \\['a'\\]"):
        predict(ToyModel(), recording, DATA_INFO)
    model = ToyModel()
    model.lag = LAG + 1
    with pytest.raises(PredictionError, match="session 'a': the model answers"):
        predict(model, make_recording(), DATA_INFO)


class RecurrentModel(nn.Module):
    """A recurrent core whose channels are the neurons, and that counts the bins it is shown."""

    def __init__(self, core_class: type[ConvGRUCore] = ConvGRUCore, cut: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        gru = {"rec_channels": N_NEURONS, "input_kern": 3, "rec_kern": 3}
        condition = {"cond_dim": 2} if core_class is ConditionedGRUCore else {}
        self.core = core_class(
            **condition,
            channels=(1, 3),
            n_neurons_dict={"a": N_NEURONS},
            temporal_kernel_sizes=4,
            spatial_kernel_sizes=3,
            use_gru=True,
            gru_kwargs=gru,
            cut_first_n_frames=cut,
        )
        nn.init.constant_(self.core.recurrent.gru.update_gate_input.bias, -4.0)  # a state that lasts
        self.lag = self.core.lag
        self.batches: list[int] = []

    def forward(self, x: Tensor, data_key: str | None = None) -> Tensor:
        self.batches.append(x.shape[0] * x.shape[2])
        return self.core(x, data_key=data_key).mean((3, 4)).movedim(1, 2)


@pytest.mark.parametrize("core_class", [ConvGRUCore, ConditionedGRUCore])
@pytest.mark.parametrize("cut", [0, 2])
def test_a_recurrent_core_predicts_the_same_whatever_shares_its_batch(core_class: type[ConvGRUCore], cut: int) -> None:
    recording, model = make_recording(), RecurrentModel(core_class, cut)
    whole = predict(model, recording, DATA_INFO, batch_bins=8192)
    assert np.isfinite(whole[recording.bin_in_trial() >= model.lag]).all()
    for batch_bins in (model.lag + 1, 17, 45, 64):
        model.batches.clear()
        cut_up = predict(model, recording, DATA_INFO, batch_bins=batch_bins)
        assert max(model.batches) <= batch_bins
        np.testing.assert_allclose(cut_up, whole, atol=1e-5)
    frames = torch.zeros(1, 1, 61, 4, 6)
    with torch.inference_mode():
        torch.testing.assert_close(model(frames), model(frames))  # no state is left to the next call


def test_the_state_of_a_recurrent_core_starts_with_the_trial_and_passes_what_is_not_wanted() -> None:
    recording, model = make_recording(), RecurrentModel()
    whole = predict(model, recording, DATA_INFO)
    wanted = np.zeros(recording.n_bins, bool)
    wanted[30:35] = wanted[40:50] = True  # of the first trial, as if bins between them were masked
    for batch_bins in (17, 8192):
        predicted = predict(model, recording, DATA_INFO, bins=wanted, batch_bins=batch_bins)
        np.testing.assert_allclose(predicted[wanted], whole[wanted], atol=1e-5)
        assert np.isnan(predicted[~wanted]).all()
    first = np.flatnonzero(recording.trial == 2)
    alone = replace(
        recording,
        trials=recording.trials.iloc[[2]].reset_index(drop=True),
        **{name: getattr(recording, name)[first] for name in ("frame", "responses", "valid")},
        trial=np.zeros(len(first), np.int32),
    )
    np.testing.assert_allclose(predict(model, alone, DATA_INFO), whole[first], atol=1e-5)


class ToyMember:
    """What predict_member reads of a member."""

    def __init__(self) -> None:
        self.model, self.data_info, self.fold, self.seed = ToyModel(), DATA_INFO, 1, 7
        self.config = {"splits": {"method": "folds", "n_folds": 2, "clip_length": 20, "seed": 0}}
        self.recordings: dict[str, str] = {}


def test_member_predictions_survive_the_file_and_are_finite_only_where_held_out(tmp_path: Path) -> None:
    recording = make_recording()
    predictions = predict_member(ToyMember(), [recording], experiment="toy")  # type: ignore[arg-type]
    prediction, label = predictions.sessions["a"]
    held_out = np.isin(label, (VALIDATION, TEST))
    assert {TRAIN, VALIDATION, TEST} <= set(label.tolist())
    assert np.isfinite(prediction[held_out]).all()
    assert np.isnan(prediction[~held_out]).all()
    write_predictions(predictions, tmp_path / "predictions.h5")
    back = read_predictions(tmp_path / "predictions.h5")
    assert (back.name, back.experiment, back.lag) == ("fold1_seed7", "toy", LAG)
    np.testing.assert_array_equal(back.sessions["a"].prediction, prediction)
    np.testing.assert_array_equal(back.sessions["a"].label, label)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.h5"]


def test_sessions_that_are_predicted_as_they_are_written_are_the_same(tmp_path: Path) -> None:
    member = ToyMember()
    member.data_info = {**DATA_INFO, "response_scale": dict.fromkeys("ab", DATA_INFO["response_scale"]["a"])}
    recordings = [make_recording(), replace(make_recording(), session="b")]
    known = predict_member(member, recordings, experiment="toy")  # type: ignore[arg-type]
    member.model.batches.clear()
    lazy = predict_member(member, recordings, experiment="toy", lazy=True)  # type: ignore[arg-type]
    assert list(lazy.sessions) == ["a", "b"]
    assert "b" in lazy.sessions
    assert "c" not in lazy.sessions
    assert not member.model.batches, "nothing is predicted before it is asked for"
    write_predictions(lazy, tmp_path / "predictions.h5")
    for session, prediction in read_predictions(tmp_path / "predictions.h5").sessions.items():
        np.testing.assert_array_equal(prediction.prediction, known.sessions[session].prediction)
        np.testing.assert_array_equal(prediction.label, known.sessions[session].label)


def test_a_recording_other_than_that_of_the_training_is_refused() -> None:
    recording, member = make_recording(), ToyMember()
    tiers = ["train" if name == "probe" else "test" for name in recording.trials["stimulus"]]
    other_tests = replace(recording, trials=recording.trials.assign(tier=tiers))
    other_cells = replace(recording, neurons=pd.DataFrame({"unit_id": range(1, N_NEURONS + 1)}))
    member.recordings = {"a": content_digest(recording)}
    expected = predict_member(member, [recording], experiment="toy").sessions["a"]  # type: ignore[arg-type]
    for other in (other_tests, other_cells):
        given, trained = content_digest(other), member.recordings["a"]
        message = (
            f"session 'a': .* fold1_seed7 was trained on: .* is {given}, .* {trained}; give the same data settings"
        )
        with pytest.raises(PredictionError, match=message):
            predict_member(member, [other], experiment="toy")  # type: ignore[arg-type]
        with pytest.raises(PredictionError, match=message):
            predict_member(member, [recording], experiment="toy", digests={"a": given})  # type: ignore[arg-type]
    meant = predict_member(member, [other_cells], experiment="toy", data_changed=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(meant.sessions["a"].prediction, expected.prediction)
    member.recordings = {"b": "11" * 32}  # of a it does not say
    predict_member(member, [other_tests], experiment="toy")  # type: ignore[arg-type]


def test_a_truncated_prediction_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.h5"
    with pytest.raises(PredictionError, match="there is no such prediction file"):
        read_predictions(path)
    session = SessionPrediction(np.zeros((50, 3), np.float32), np.zeros(50, np.int8))
    write_predictions(MemberPredictions("toy", 0, 0, LAG, {"a": session}), path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(PredictionError, match=r"predictions\.h5: not a readable prediction file"):
        read_predictions(path)
