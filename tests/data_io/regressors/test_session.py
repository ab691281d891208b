"""All regressors of a session: nothing held out reaches them, nothing later reaches an earlier trial."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from coread.config import config_directory
from coread.data_io.regressors import CONTEXT_NAMES, RegressorError, SessionMaps, fit_session
from coread.data_io.regressors.session import check_settings
from coread.data_io.splits import GAP, TRAIN, UNUSED, VALIDATION
from coread.recording import Recording, read_recording, write_recording
from tests.data_io.regressors.sessions import (
    SETTINGS,
    fabricate_session,
    in_other_file_order,
    labels_of,
    unit_scale,
    with_responses,
)


def fit(recording: Recording, labels: np.ndarray | None = None, configured: Mapping = SETTINGS) -> SessionMaps:
    labels = labels_of(recording) if labels is None else labels
    return fit_session(recording, labels, unit_scale(recording), configured)


def regressors(maps: SessionMaps, recording: Recording, labels: np.ndarray | None = None) -> dict[str, Tensor]:
    """Every regressor of every bin."""
    labels = labels_of(recording) if labels is None else labels
    context = maps.bind(recording, labels, unit_scale(recording))
    every = context.at(np.arange(recording.n_bins)[:, None], maps.names())
    return {name: values[:, 0] for name, values in every.items()}


def assert_same_maps(one: Any, other: Any):
    if isinstance(one, Mapping):
        assert set(one) == set(other)
        for name in one:
            assert_same_maps(one[name], other[name])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def assert_same_values(one: Mapping[str, Tensor], other: Mapping[str, Tensor], bins: Any = slice(None)):
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one[name][bins], other[name][bins]), name


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), available=st.sampled_from(["train", "train_and_validation"]))
def test_no_test_or_withheld_response_reaches_a_map_or_a_regressor(seed: int, available: str):
    recording = fabricate_session(seed=seed)
    configured = SETTINGS | {"history": {"lags": [1, 4], "available": available}}
    tier = recording.trials["tier"].to_numpy()
    altered = with_responses(recording, np.isin(tier, ("test", "final_test")), seed)
    maps, again = fit(recording, configured=configured), fit(altered, configured=configured)
    assert_same_maps(maps.to_plain(), again.to_plain())
    assert_same_values(regressors(maps, recording), regressors(again, altered))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), moment=st.integers(0, 79))
def test_no_response_at_or_after_a_trial_reaches_its_regressors(seed: int, moment: int):
    recording = fabricate_session(seed=seed)
    maps = CAUSAL_MAPS
    rank = recording.trials["time_order"].to_numpy()
    altered = with_responses(recording, (rank >= moment) & recording.valid, seed)
    assert_same_values(regressors(maps, recording), regressors(maps, altered), rank <= moment)


CAUSAL_MAPS = fit(fabricate_session(seed=3))


def test_an_available_response_does_reach_the_next_trial():
    recording = fabricate_session()
    maps, labels = fit(recording), labels_of(recording)
    rank = recording.trials["time_order"].to_numpy()
    bin_index = int(np.flatnonzero((labels == TRAIN) & (rank < 60))[0])
    before = regressors(maps, recording)
    after = regressors(maps, with_responses(recording, np.array([bin_index])))
    following = rank == rank[bin_index] + 1
    for name in ("history", "state"):
        assert not torch.equal(before[name][following], after[name][following])


def test_labels_of_the_fold_are_honoured():
    recording = fabricate_session(n_trials=200)
    labels = labels_of(recording)
    altered = with_responses(recording, labels == VALIDATION)
    assert_same_maps(fit(recording).to_plain(), fit(altered).to_plain())
    only_train = SETTINGS | {
        "history": SETTINGS["history"] | {"available": "train"},
        "state": SETTINGS["state"] | {"available": "train"},
    }
    maps = fit(recording, configured=only_train)
    assert_same_values(regressors(maps, recording), regressors(maps, altered))
    maps = fit(recording)  # validation responses are inputs of later trials by default
    assert not torch.equal(regressors(maps, recording)["history"], regressors(maps, altered)["history"])
    # another fold: its maps are fitted on its own training bins
    swapped = np.select([labels == VALIDATION, np.arange(200) % 7 == 0], [TRAIN, VALIDATION], labels).astype(np.int8)
    swapped[labels > GAP] = labels[labels > GAP]
    assert not torch.equal(
        fit(recording, swapped).to_plain()["state"]["mean"], fit(recording).to_plain()["state"]["mean"]
    )
    assert fit(recording, swapped).behaviour != fit(recording).behaviour


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_order_of_the_file_does_not_matter(seed: int):
    recording = fabricate_session(seed=seed)
    order = np.random.default_rng(seed).permutation(recording.n_bins)
    other = in_other_file_order(recording, order)
    maps = fit(recording)
    assert_same_maps(maps.to_plain(), fit(other).to_plain())
    expected = {name: values[order] for name, values in regressors(maps, recording).items()}
    assert_same_values(regressors(maps, other), expected)


def test_responses_are_divided_by_their_scale():
    recording = fabricate_session()
    labels = labels_of(recording)
    scale = torch.linspace(0.5, 4.0, recording.n_neurons)
    scaled = replace(recording, responses=recording.responses / scale.numpy())
    maps = fit_session(recording, labels, scale, SETTINGS)
    assert_same_maps(maps.to_plain(), fit(scaled).to_plain())
    bins = np.arange(recording.n_bins)[:, None]
    bound = maps.bind(recording, labels, scale).at(bins, maps.names())
    assert_same_values(bound, maps.bind(scaled, labels, torch.ones(8)).at(bins, maps.names()))


def test_batches_have_the_shapes_of_their_names():
    recording = fabricate_session()
    maps = fit(recording)
    context = maps.bind(recording, labels_of(recording), unit_scale(recording))
    bins = np.array([[3], [70], [3]])
    batch = context.at(bins, CONTEXT_NAMES)
    shapes = {name: tuple(values.shape) for name, values in batch.items()}
    assert shapes == {
        "behaviour": (3, 1, 3),
        "pupil_center": (3, 1, 2),
        "history": (3, 1, 8, 3),
        "state": (3, 1, 2),
        "time_order": (3, 1),
    }
    assert maps.widths() == {"behaviour": 3, "pupil_center": 2, "history": 3, "state": 2}
    np.testing.assert_array_equal(batch["time_order"], recording.trials["time_order"].to_numpy()[bins])
    assert {values.dtype for name, values in batch.items() if name != "time_order"} == {torch.float32}
    assert list(context.at(bins, ["state"])) == ["state"]


def test_maps_survive_a_member_file_to_the_bit():
    recording = fabricate_session()
    for configured in (SETTINGS, SETTINGS | {"behaviour": None, "pupil_center": False, "history": None, "state": None}):
        maps = fit(recording, configured=configured)
        buffer = io.BytesIO()
        torch.save(maps.to_plain(), buffer)
        buffer.seek(0)
        again = SessionMaps.from_plain(torch.load(buffer, weights_only=True))
        assert again.names() == maps.names()
        assert_same_values(regressors(again, recording), regressors(maps, recording))


def test_responses_on_disk_give_the_same_regressors(tmp_path: Path):
    recording = fabricate_session()
    write_recording(recording, tmp_path / "session.h5")
    on_disk = read_recording(tmp_path / "session.h5", load_responses=False)
    assert_same_maps(fit(recording).to_plain(), fit(on_disk).to_plain())
    assert_same_values(regressors(fit(recording), recording), regressors(fit(recording), on_disk))


def test_all_trial_statistics_are_those_of_the_files_where_they_are_known():
    recording = fabricate_session()
    everything = fit(recording, configured=SETTINGS | {"statistics_of": "all"})
    np.testing.assert_allclose(everything.behaviour.offset[0], recording.behaviour[:, 0].min())
    published = {
        "behaviour_min_all": np.array([1.0, 2.0, 3.0]),
        "behaviour_max_all": np.array([101.0, 2.0, 3.0]),
        "pupil_center_mean_all": np.array([7.0, 8.0]),
    }
    from_files = replace(recording, session_info=published)
    fitted = fit(from_files, configured=SETTINGS | {"statistics_of": "all"})
    assert fitted.behaviour.offset[0] == 1
    assert fitted.behaviour.factor[0] == pytest.approx(0.01)
    assert fitted.pupil_center.offset == (7, 8)
    assert fit(from_files).behaviour == fit(recording).behaviour  # statistics over test trials are not taken unasked


def test_sessions_may_name_their_own_behaviour():
    recording = fabricate_session()
    named = replace(
        recording,
        behaviour=recording.behaviour[:, 1:],
        session_info={"behaviour_names": np.array(["lick_rate", "running_speed"], dtype=object)},
    )
    values = regressors(fit(named), named)["behaviour"][labels_of(recording) == TRAIN]
    np.testing.assert_allclose([values.min(), values[:, 0].max(), values[:, 1].max()], [0, 1, 1], atol=1e-6)
    with pytest.raises(RegressorError, match="session 'session_0': expected the variables"):
        fit(replace(named, session_info={}))


def test_masked_bins_are_no_history():
    recording = fabricate_session()
    labels = labels_of(recording)
    first = int(np.flatnonzero(labels == TRAIN)[0])
    masked = labels.copy()
    masked[first] = UNUSED
    nan = recording.responses.copy()
    nan[first] = np.nan
    broken = replace(recording, responses=nan)
    assert all(
        torch.isfinite(values.double()).all() for values in regressors(fit(broken, masked), broken, masked).values()
    )
    with pytest.raises(RegressorError, match=f"session 'session_0': the responses of bin {first} are not all finite"):
        regressors(fit(recording), broken, labels)


def test_wrong_requests_are_named():
    recording = fabricate_session()
    maps = fit(recording, configured=SETTINGS | {"state": None})
    context = maps.bind(recording, labels_of(recording), unit_scale(recording))
    with pytest.raises(RegressorError, match=r"the model asks for \['state'\].*set regressors.state"):
        context.at(np.array([[0]]), ["history", "state"])
    with pytest.raises(RegressorError, match="the regressors of 'session_0' were asked for session 'other'"):
        maps.bind(replace(recording, session="other"), labels_of(recording), unit_scale(recording))
    tied = replace(recording, trials=recording.trials.assign(time_order=0))
    with pytest.raises(RegressorError, match="time_order must give every trial its own rank"):
        fit(tied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"behavior": None}, "regressors must have the keys"),
        ({"behaviour": {"scheme": "std", "variables": 3}}, "regressors.behaviour must have the keys"),
        ({"behaviour": {"scheme": "minmax"}}, "session 'session_0': scheme must be one of"),
        ({"statistics_of": "test"}, "regressors.statistics_of must be one of"),
        ({"history": {"lags": [0, 1], "available": "train"}}, "regressors.history.lags must be whole numbers"),
        ({"history": {"lags": [1], "available": "test"}}, "regressors.history.available must be one of"),
        ({"state": {"rank": 20}}, "regressors.state must have the keys"),
    ],
)
def test_settings_that_cannot_be_are_named(change: dict[str, Any], message: str):
    with pytest.raises(RegressorError, match=message):
        fit(fabricate_session(), configured=SETTINGS | change)


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        ("default", CONTEXT_NAMES),
        ("published", CONTEXT_NAMES),
        ("baseline", ("behaviour", "pupil_center", "time_order")),
        ("none", ("time_order",)),
    ],
)
def test_shipped_settings_can_be_fitted(name: str, fitted: tuple[str, ...]):
    with initialize_config_dir(str(config_directory()), version_base=None):
        shipped = OmegaConf.to_container(compose(f"regressors/{name}").regressors, resolve=True)
    check_settings(shipped)
    small = shipped if shipped["state"] is None else shipped | {"state": shipped["state"] | {"max_iterations": 20}}
    recording = fabricate_session()
    maps = fit(recording, configured=small)
    assert maps.names() == fitted
    assert all(torch.isfinite(values.double()).all() for values in regressors(maps, recording).values())
