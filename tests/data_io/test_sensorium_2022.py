"""SENSORIUM 2022: files in the published layout, folder or zip, become recordings, or a sentence says why not."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from skimage.transform import rescale as skimage_rescale

from coread.data_io.download.registry import read_registry
from coread.data_io.readers.sensorium_2022_files import data_key, find_sessions
from coread.data_io.readers.sensorium_2022_images import rescale
from coread.data_io.sensorium_layout import write_session
from coread.data_io.sources import build_recording, list_sessions, source_files
from coread.data_io.splits import TEST, TRAIN, UNUSED, label_bins
from coread.eval.competition import withheld_tiers
from coread.eval.repeats import align_repeats
from coread.recording import RecordingError, content_digest, read_recording, write_recording
from tests.published_data.sensorium_2022 import KEY, npy, toy_session, write_changed

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data_io" / "sensorium_2022.yaml").read_text())
OWN = CONFIG | {"sessions": None}
PUBLISHED = {"method": "published"}


def build(session, folder, *, zipped=True, **config):
    write_session(session, folder, zipped=zipped)
    return build_recording(OWN | config, session.data_key, folder)


def shown_pixels(recording):
    """Physical pixels of every trial."""
    images = recording.stimuli["images"]
    return images.frames[recording.frame] * images.scale + images.offset


# --------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("scale", "dtype"), [(0.25, np.uint8), (0.25, np.float64), (0.5, np.uint8), (1 / 3, np.float32)]
)
def test_images_are_rescaled_as_the_published_loader_does(scale, dtype):
    images = np.random.default_rng(1).integers(0, 256, (3, 1, 36, 48)).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        images = images + np.random.default_rng(2).random(images.shape).astype(dtype)
    expected = [
        skimage_rescale(
            image.astype(np.float64), scale, order=1, mode="reflect", anti_aliasing=False, channel_axis=0, clip=True
        )
        for image in images
    ]
    found = rescale(images, round(1 / scale))
    assert found.shape[2:] == (round(36 * scale), round(48 * scale))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_quarter_steps_are_kept_exactly_in_two_bytes_and_every_image_once(tmp_path):
    session = toy_session()
    recording = build(session, tmp_path)
    stored = recording.stimuli["images"]
    blocks = session.images.reshape(-1, 1, 6, 4, 8, 4)[:, :, :, 1:3, :, 1:3].astype(np.float64)
    assert np.array_equal(shown_pixels(recording), blocks.mean(axis=(3, 5)))
    assert stored.frames.dtype == np.uint16
    assert len(stored.frames) == 10 + 3 + 2 + 2
    assert (stored.frame_rate_hz, recording.rate_hz) == (2.0, 2.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_full_resolution_keeps_bytes_as_bytes(tmp_path, dtype):
    session = toy_session()
    recording = build(replace(session, images=session.images.astype(dtype)), tmp_path, scale=1)
    assert recording.stimuli["images"].frames.dtype == np.uint8
    assert np.array_equal(shown_pixels(recording), session.images)


def test_pixels_of_any_value_survive(tmp_path):
    session = toy_session()
    images = session.images.astype(np.float32) / 7 - 3
    recording = build(replace(session, images=images), tmp_path, scale=1)
    assert np.array_equal(shown_pixels(recording).astype(np.float32), images)


# -------------------------------------------------------------------------------------------------------- folder or zip


def test_folder_and_zip_are_one_recording_and_nothing_is_unpacked(tmp_path):
    session = toy_session()
    folder = build(session, tmp_path / "folder", zipped=False)
    archive = build(session, tmp_path / "zip")
    assert content_digest(folder) == content_digest(archive)
    assert [path.name for path in (tmp_path / "zip").rglob("*")] == [f"{session.name}.zip"]
    assert source_files(OWN, KEY, tmp_path / "zip") == [tmp_path / "zip" / f"{session.name}.zip"]
    read = {
        path.relative_to(tmp_path / "folder" / session.name).as_posix()
        for path in source_files(OWN, KEY, tmp_path / "folder")
    }
    assert {"data/images/0.npy", "meta/trials/tiers.npy"} <= read
    assert archive.source.keys() == {f"{session.name}.zip"}
    assert len(folder.source[session.name]) == 64


def test_what_the_files_say_is_what_the_recording_says(tmp_path):
    session = toy_session()
    recording = build(session, tmp_path)
    assert np.array_equal(recording.responses, session.responses)
    assert recording.valid.all()
    assert np.array_equal(recording.behaviour, session.behaviour.astype(np.float32))
    assert np.array_equal(recording.pupil_center, session.pupil_center.astype(np.float32))
    assert recording.trials["tier"].tolist() == session.tiers.tolist()
    assert recording.trials["image_id"].tolist() == session.image_ids.tolist()
    assert recording.trials["trial_id"].tolist() == [str(index) for index in session.trial_idx]
    assert np.array_equal(recording.trial, np.arange(len(session.tiers)))
    positions = recording.neurons[["position_x_um", "position_y_um", "position_z_um"]]
    assert np.allclose(positions, session.cell_motor_coordinates)
    assert recording.neurons["unit_id"].tolist() == session.unit_ids.tolist()
    assert recording.area == "V1"
    assert np.allclose(recording.session_info["behaviour_max_all"], session.behaviour.max(axis=0))


def test_a_recording_survives_its_own_file(tmp_path):
    recording = build(toy_session().withheld(), tmp_path)
    write_recording(recording, tmp_path / "packed.h5")
    assert content_digest(read_recording(tmp_path / "packed.h5")) == content_digest(recording)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("static21067-10-18-GrayImageNet-94c6ff995dac583098847cfecd43e7b6.zip", "21067-10-18"),
        ("static25311-10-26-ColorImageNet-104e446ed0128d89c639eef0abe4655b", "25311-10-26"),
        ("static20457-5-9-preproc0.zip", "20457-5-9-0"),
        ("static20457-5-9-preproc_nobehavior", "20457-5-9-"),
    ],
)
def test_a_published_name_tells_the_session(name, key):
    assert data_key(Path(name)) == key


def test_sessions_of_any_other_name_are_told_by_their_neurons(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_session(toy_session(), tmp_path, zipped=True).rename(tmp_path / "deep" / "er" / "our mouse.zip")
    write_session(toy_session(1, data_key="7-8-9"), tmp_path).rename(tmp_path / "deep" / "another")
    (tmp_path / "deep" / "unrelated.zip").write_bytes(b"no archive")
    assert list_sessions(OWN, tmp_path) == [KEY, "7-8-9"]
    assert build_recording(OWN, "7-8-9", tmp_path).session == "7-8-9"


def test_an_archive_is_read_instead_of_the_folder_it_was_unpacked_to(tmp_path):
    session = toy_session()
    write_session(session, tmp_path)
    archive = write_session(session, tmp_path, zipped=True)
    assert find_sessions(tmp_path) == {KEY: archive}
    write_session(session, tmp_path / "copy")
    with pytest.raises(RecordingError, match=f"session '{KEY}' exists twice"):
        find_sessions(tmp_path)


def test_the_config_lists_the_seven_archives():
    keys = {data_key(Path(entry.path)): entry.unpack for entry in read_registry(CONFIG)}
    assert keys == dict.fromkeys(CONFIG["sessions"], False)
    assert len(keys) == 7


# ---------------------------------------------------------------------------------------------------------------- order


def test_time_stamps_order_the_trials_and_trial_numbers_those_of_one_second(tmp_path, caplog):
    session = toy_session()
    seconds = np.datetime64("2022-05-17T09:30:00") + session.trial_idx // 2
    recording = build(replace(session, timestamps=seconds), tmp_path)
    assert recording.trials["time_order"].tolist() == session.trial_idx.tolist()
    tied = len(session.tiers) // 2 * 2
    assert recording.session_info["time_ties"] == tied
    assert f"{tied} of {len(session.tiers)} trials share a time stamp" in caplog.text
    assert "trial_idx" in caplog.text


def test_hidden_trial_numbers_stay_text_and_leave_one_second_to_the_order_of_the_files(tmp_path, caplog):
    session = toy_session()
    seconds = np.datetime64("2022-05-17T09:30:00") + session.trial_idx // 2
    recording = build(replace(session, timestamps=seconds).withheld(), tmp_path)
    expected = np.lexsort((np.arange(len(seconds)), seconds))
    assert np.array_equal(np.argsort(recording.trials["time_order"]), expected)
    assert recording.trials["trial_id"].str.fullmatch("[0-9a-f]{32}").all()
    assert recording.session_info["time_ties_resolved_by"].tolist() == ["place in the files"]
    assert "place in the files" in caplog.text


def test_no_ties_are_not_reported(tmp_path, caplog):
    recording = build(toy_session(), tmp_path)
    assert recording.session_info["time_ties"] == 0
    assert "time stamp" not in caplog.text


@pytest.mark.parametrize(
    "stamps",
    [
        lambda time: np.array([f"Timestamp('2022-05-17 09:{i // 60:02d}:{i % 60:02d}.250000')" for i in time]),
        lambda time: np.array([f"2022-05-17T09:{i // 60:02d}:{i % 60:02d}" for i in time]),
        lambda time: 1234.5 + 0.9 * time,
        lambda time: np.datetime64("2022-05-17T09:30:00", "ms") + 900 * time,
    ],
    ids=["fractions", "iso", "seconds", "datetime64"],
)
def test_time_stamps_of_other_exports(tmp_path, stamps):
    session = toy_session()
    changed = {"meta/trials/frame_trial_ts.npy": npy(stamps(session.trial_idx))}
    write_changed(session, tmp_path, changed, zipped=True)
    recording = build_recording(OWN, KEY, tmp_path)
    assert recording.trials["time_order"].tolist() == session.trial_idx.tolist()


def test_other_orders_are_asked_for(tmp_path):
    session = toy_session()
    write_changed(session, tmp_path, {"meta/trials/frame_trial_ts.npy": None}, zipped=True)
    with pytest.raises(RecordingError, match=r"frame_trial_ts\.npy is missing, so the order in time is unknown"):
        build_recording(OWN, KEY, tmp_path)
    by_number = build_recording(OWN | {"time_order": "trial_idx"}, KEY, tmp_path)
    assert by_number.trials["time_order"].tolist() == session.trial_idx.tolist()
    by_place = build_recording(OWN | {"time_order": "file"}, KEY, tmp_path)
    assert by_place.trials["time_order"].tolist() == list(range(len(session.tiers)))


def test_repeats_of_an_image_are_counted_in_time(tmp_path):
    trials = build(toy_session(n_repeats=4), tmp_path).trials
    for (_, tier), showings in trials.sort_values("time_order").groupby(["image_id", "tier"]):
        assert showings["repeat"].tolist() == list(range(4 if "test" in tier else 1))


# ------------------------------------------------------------------------------------------------------------- withheld


def test_withheld_responses_are_masked_and_nothing_else_is(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    session = toy_session()
    recording = build(session.withheld(), tmp_path)
    hidden = np.isin(session.tiers, ["test", "final_test"])
    assert np.array_equal(recording.trials["withheld"], hidden)
    assert np.array_equal(recording.valid, ~hidden)
    assert np.isnan(recording.responses[hidden]).all()
    assert np.array_equal(recording.responses[~hidden], session.responses[~hidden])
    labels = label_bins(recording, PUBLISHED, 0, 0)
    assert (labels[hidden] == UNUSED).all()
    assert "withheld and masked in {'final_test': 6, 'test': 6}" in caplog.text
    assert np.array_equal(recording.behaviour, session.behaviour.astype(np.float32))


def test_one_withheld_tier_leaves_the_other(tmp_path):
    session = toy_session()
    responses = np.where((session.tiers == "final_test")[:, None], 0, session.responses)
    recording = build(replace(session, responses=responses), tmp_path)
    assert np.array_equal(recording.trials["withheld"], session.tiers == "final_test")
    assert (label_bins(recording, PUBLISHED, 0, 0)[session.tiers == "test"] == TEST).all()


def test_a_withheld_tier_stays_so_beside_a_published_one_of_the_same_meaning(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    session = toy_session()
    hidden, published = session.tiers == "final_test", session.tiers == "test"
    tiers = np.select([hidden, published], ["test", "oracle"], session.tiers)
    responses = np.where(hidden[:, None], 0, session.responses)
    recording = build(replace(session, tiers=tiers, responses=responses), tmp_path, tiers={"oracle": "test"})
    assert (recording.trials["tier"][hidden | published] == "test").all()
    assert np.array_equal(recording.trials["withheld"], hidden)
    assert np.array_equal(recording.valid, ~hidden)
    assert np.isnan(recording.responses[hidden]).all()
    assert np.array_equal(recording.responses[published], session.responses[published])
    labels = label_bins(recording, PUBLISHED, 0, 0)
    assert (labels[hidden] == UNUSED).all()
    assert (labels[published] == TEST).all()
    scored = align_repeats(recording, labels == TEST)["images"]
    assert np.array_equal(np.sort(scored.ravel()), np.flatnonzero(published))
    assert withheld_tiers(recording) == ["test"]
    assert "responses are withheld and masked in {'test': 6}" in caplog.text
    assert "every response is 0" not in caplog.text


def test_zeros_and_missing_values_side_by_side_are_no_responses(tmp_path):
    session = toy_session()
    hidden = session.tiers == "test"
    session.responses[hidden] = 0
    session.responses[hidden, 2] = np.nan
    assert np.array_equal(build(session, tmp_path).trials["withheld"], hidden)


def test_neurons_that_are_not_chosen_tell_what_is_withheld_too(tmp_path, caplog):
    session = toy_session()
    responses = session.responses.copy()
    responses[session.tiers == "test", 0] = 0
    changed = replace(session, responses=responses)
    recording = build(changed, tmp_path, neuron_ids={KEY: [int(session.unit_ids[0])]})
    assert not recording.trials["withheld"].any()
    assert recording.valid.all()
    assert np.array_equal(recording.responses, responses[:, :1])
    assert "every response is 0" not in caplog.text


def test_a_silent_trial_is_a_response(tmp_path, caplog):
    session = toy_session()
    responses = session.responses.copy()
    responses[np.flatnonzero(session.tiers == "test")[0]] = 0
    recording = build(replace(session, responses=responses), tmp_path)
    assert recording.valid.all()
    assert "in 1 trials every response is 0" in caplog.text


def test_withheld_behaviour_is_absent_and_missing_values_stay_missing(tmp_path):
    session = toy_session()
    hidden = build(session.withheld(behaviour=True), tmp_path / "hidden")
    assert hidden.behaviour is None
    assert hidden.pupil_center is None
    absent = build(replace(session, behaviour=None, pupil_center=None), tmp_path / "absent")
    assert absent.behaviour is None
    assert absent.pupil_center is None
    behaviour = session.behaviour.copy()
    behaviour[4, 2] = np.nan
    behaviour[:, 0] = np.nan
    some = build(replace(session, behaviour=behaviour), tmp_path / "some")
    assert np.array_equal(np.isnan(some.behaviour), np.isnan(behaviour))
    none = build(replace(session, behaviour=np.full_like(behaviour, np.nan)), tmp_path / "none")
    assert none.behaviour is None


def test_missing_responses_are_an_error_or_masked(tmp_path):
    session = toy_session()
    session.responses[3, 1] = np.nan
    with pytest.raises(RecordingError, match="1 response values are not finite, the first at bin 3, neuron 1"):
        build(session, tmp_path)
    recording = build_recording(OWN | {"nan_responses": "mask"}, KEY, tmp_path)
    assert np.flatnonzero(~recording.valid).tolist() == [3]
    assert not recording.trials["withheld"].any()


def test_published_statistics_change_no_data(tmp_path):
    session = toy_session()
    first = build(session, tmp_path / "first")
    changed = {
        f"meta/statistics/{key}/all/{name}.npy": npy(np.full(n, 77.0))
        for key, n in (("behavior", 3), ("pupil_center", 2), ("responses", 5))
        for name in ("min", "max", "mean", "std")
    }
    write_changed(session, tmp_path / "second", changed, zipped=True)
    second = build_recording(OWN, KEY, tmp_path / "second")
    assert (second.session_info["behaviour_std_all"] == 77).all()
    same = replace(second, session_info=first.session_info)
    assert content_digest(same) == content_digest(first)


def test_the_published_response_scale_has_its_floor_over_all_neurons(tmp_path):
    session = toy_session()
    session.responses[:, 2] = 1.0  # a constant neuron
    write_session(session, tmp_path, zipped=True)
    recording = build_recording(OWN | {"neuron_ids": {KEY: [5, 1]}}, KEY, tmp_path)
    deviation = session.responses.std(axis=0, dtype=np.float64)
    expected = [deviation[0], 0.01 * deviation.mean()]
    np.testing.assert_allclose(recording.session_info["published_response_scale"], expected)


# --------------------------------------------------------------------------------------------------------- ids of files


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (lambda ids: np.char.add("n0144_", ids.astype(str)), lambda ids: [f"n0144_{number}" for number in ids]),
        (lambda ids: np.char.add("n0144_", ids.astype(str)).astype("S"), lambda ids: [f"n0144_{n}" for n in ids]),
        (lambda ids: ids.astype(str), lambda ids: ids.tolist()),
        (lambda ids: ids.astype(float), lambda ids: ids.tolist()),
    ],
    ids=["text", "bytes", "numbers as text", "whole floats"],
)
def test_image_ids_are_those_of_the_files(tmp_path, written, kept):
    session = toy_session()
    changed = {"meta/trials/frame_image_id.npy": npy(written(session.image_ids))}
    write_changed(session, tmp_path, changed, zipped=True)
    recording = build_recording(OWN, KEY, tmp_path)
    assert recording.trials["image_id"].tolist() == kept(session.image_ids)
    write_recording(recording, tmp_path / "packed.h5")
    assert content_digest(read_recording(tmp_path / "packed.h5")) == content_digest(recording)


def test_without_image_ids_the_rows_of_the_stimulus_stand_for_them(tmp_path):
    write_changed(toy_session(), tmp_path, {"meta/trials/frame_image_id.npy": None}, zipped=True)
    recording = build_recording(OWN, KEY, tmp_path)
    assert recording.trials["image_id"].tolist() == recording.frame.tolist()


def test_other_images_under_the_id_of_a_test_image_are_told(tmp_path, caplog):
    session = toy_session()
    images = session.images.copy()
    first = np.flatnonzero((session.tiers == "test") & (session.image_ids == 101))[0]
    images[first, 0, 0, 0] ^= 1
    recording = build(replace(session, images=images), tmp_path)
    assert recording.trials["repeat"][session.image_ids == 101].max() == 1
    assert f"session {KEY}, tier test shows different images under one image_id: 101;" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_equal_images_under_an_id_and_training_images_are_no_reason_to_warn(tmp_path, caplog):
    session = toy_session()
    same = np.where(session.tiers == "train", 0, session.image_ids)
    build(replace(session, image_ids=same), tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_trial_numbers_written_as_text_keep_their_text_and_order_the_trials(tmp_path, dtype):
    session = toy_session()
    names = np.array([f"{index:04d}" for index in session.trial_idx])
    write_changed(session, tmp_path, {"meta/trials/trial_idx.npy": npy(names.astype(dtype))}, zipped=True)
    recording = build_recording(OWN | {"time_order": "trial_idx"}, KEY, tmp_path)
    assert recording.trials["trial_id"].tolist() == names.tolist()
    assert recording.trials["time_order"].tolist() == session.trial_idx.tolist()


# -------------------------------------------------------------------------------------------------------- other exports


def test_neurons_are_chosen_by_area_layer_and_id(tmp_path):
    session = toy_session(area=np.array(["V1", "V1", "LM", "LM", "AL"]), layer=np.array(["L2/3", "L5"] * 2 + ["L5"]))
    write_session(session, tmp_path, zipped=True)
    recording = build_recording(OWN | {"areas": ["V1", "LM"], "layers": ["L5"]}, KEY, tmp_path)
    assert recording.neurons["unit_id"].tolist() == [3, 7]
    assert np.array_equal(recording.responses, session.responses[:, [1, 3]])
    assert recording.area == "LM, V1"
    by_id = build_recording(OWN | {"neuron_ids": {KEY: [9, 1]}}, KEY, tmp_path)
    assert np.array_equal(by_id.responses, session.responses[:, [0, 4]])
    for config, message in (
        ({"areas": ["V2"]}, "data_io.areas names 'V2', the neurons have V1, LM, AL"),
        ({"neuron_ids": {KEY: [2]}}, "data_io.neuron_ids names '2'"),
        ({"areas": ["AL"], "layers": ["L2/3"]}, "no neuron has the areas, layers and ids"),
    ):
        with pytest.raises(RecordingError, match=message):
            build_recording(OWN | config, KEY, tmp_path)


def test_neurons_of_a_session_that_nobody_knows_are_refused(tmp_path):
    write_session(toy_session(), tmp_path, zipped=True)
    write_session(toy_session(1, data_key="7-8-9"), tmp_path, zipped=True)
    typed = OWN | {"neuron_ids": {KEY: [1], "7-8-8": [1]}}
    for ask in (build_recording, source_files):
        with pytest.raises(ValueError, match=rf"data_io\.neuron_ids names \['7-8-8'\].*\['{KEY}', '7-8-9'\]"):
            ask(typed, KEY, tmp_path)
    # a session of the folder that is not asked for, and one that is but is not there yet
    for sessions, other in (([KEY], "7-8-9"), ([KEY, "7-8-8"], "7-8-8")):
        config = OWN | {"sessions": sessions, "neuron_ids": {KEY: [1], other: [1]}}
        assert build_recording(config, KEY, tmp_path).n_neurons == 1


def test_tiers_of_other_exports_are_translated_or_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    session = toy_session()
    other = np.select([session.tiers == "test", session.tiers == "final_test"], ["oracle", "grating"], session.tiers)
    write_session(replace(session, tiers=other), tmp_path, zipped=True)
    with pytest.raises(RecordingError, match=r"names the tiers \['grating', 'oracle'\].*data_io\.tiers"):
        build_recording(OWN, KEY, tmp_path)
    recording = build_recording(OWN | {"tiers": {"oracle": "test", "grating": None}}, KEY, tmp_path)
    labels = label_bins(recording, PUBLISHED, 0, 0)
    assert (labels[other == "oracle"] == TEST).all()
    assert (labels[other == "grating"] == UNUSED).all()
    assert (labels[other == "train"] == TRAIN).all()
    assert "trials are left out: {'grating': 6}" in caplog.text
    assert "withheld" not in caplog.text
    with pytest.raises(ValueError, match=r"data_io\.tiers translates to"):
        build_recording(OWN | {"tiers": {"oracle": "exam"}}, KEY, tmp_path)


def test_exports_without_area_position_and_trial_numbers(tmp_path):
    session = toy_session(area=None, layer=None, cell_motor_coordinates=None)
    write_changed(session, tmp_path, {"meta/trials/trial_idx.npy": None}, zipped=True)
    recording = build_recording(OWN, KEY, tmp_path)
    assert recording.neurons.columns.tolist() == ["unit_id"]
    assert recording.trials["trial_id"].tolist() == [str(trial) for trial in range(len(session.tiers))]
    with pytest.raises(RecordingError, match=r"data_io.areas chooses neurons, but there is no meta/neurons/area\.npy"):
        build_recording(OWN | {"areas": ["V1"]}, KEY, tmp_path)


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data/responses/24.npy", None, "data/responses holds 24 files, but meta/trials/tiers.npy lists 25 trials"),
        ("data/responses/7.npy", None, "data/responses holds 24 numbered files but no 7.npy"),
        ("data/images/25.npy", npy(np.zeros((1, 24, 32), np.uint8)), "data/images holds 26 files"),
        ("data/behavior/24.npy", None, "data/behavior holds 24 files"),
        (
            "data/responses/3.npy",
            npy(np.zeros(4)),
            r"data/responses/3.npy must be 5 numbers, found float64 of shape \(4,\)",
        ),
        ("data/responses/3.npy", npy(["a"] * 5), "data/responses/3.npy must be 5 numbers, found <U1"),
        ("data/behavior/3.npy", npy(np.zeros(2)), "data/behavior/3.npy must be 3 numbers"),
        ("data/pupil_center/0.npy", npy(np.zeros((2, 1))), "data/pupil_center/0.npy must be 2 numbers"),
        (
            "data/images/3.npy",
            npy(np.zeros((1, 24, 36), np.uint8)),
            r"data/images/3.npy must be uint8 of shape \(1, 24, 32\)",
        ),
        ("data/images/3.npy", npy(np.zeros((1, 24, 32))), "data/images/3.npy must be uint8"),
        ("data/images/0.npy", npy(np.zeros((24, 32))), r"data/images/0.npy must be numbers \(channel, height, width\)"),
        ("data/images/0.npy", npy(np.zeros((1, 24, 30))), "24 x 30 pixels, which blocks of 4 x 4 do not fill"),
        ("data/responses/3.npy", npy(np.zeros(5))[:-3], "data/responses/3.npy is truncated or damaged"),
        ("data/responses/3.npy", b"text", "data/responses/3.npy is not a readable .npy array"),
        ("data/responses/3.npy", b"", r"data/responses(/3.npy| holds 24 numbered)"),
        (
            "meta/trials/tiers.npy",
            npy(np.array(["train"] * 25, object), allow_pickle=True),
            "meta/trials/tiers.npy is an array of Python objects, which only pickle reads and which is refused",
        ),
        ("meta/trials/tiers.npy", npy(np.arange(25)), r"tiers.npy must be text \(trial\)"),
        (
            "meta/trials/tiers.npy",
            npy(["train"] * 24),
            "data/images holds 25 files, but meta/trials/tiers.npy lists 24",
        ),
        (
            "meta/trials/frame_trial_ts.npy",
            npy(["Timestamp('2022-05-17 09:30:00')"] * 24),
            r"frame_trial_ts.npy must be of shape \(25,\)",
        ),
        ("meta/trials/frame_trial_ts.npy", npy(["NaT"] * 25), "'NaT' of trial 0 is no time such as"),
        ("meta/trials/frame_image_id.npy", npy(np.arange(3)), r"frame_image_id.npy must be of shape \(25,\)"),
        (
            "meta/trials/frame_image_id.npy",
            npy([1.0, 2.0, np.nan, *range(22)]),
            r"frame_image_id.npy must be whole numbers or text \(trial\), found nan of trial 2 \(float64\)",
        ),
        ("meta/trials/frame_image_id.npy", npy([0.5] * 25), "frame_image_id.npy must be whole .* found 0.5 of trial 0"),
        ("meta/trials/frame_image_id.npy", npy([np.inf] * 25), "frame_image_id.npy must be whole .* found inf of"),
        ("meta/trials/frame_image_id.npy", npy([True] * 25), r"found True of trial 0 \(bool\)"),
        ("meta/neurons/unit_ids.npy", None, "meta/neurons/unit_ids.npy is missing"),
        ("meta/neurons/unit_ids.npy", npy(np.arange(6)), "data/responses/0.npy must be 6 numbers"),
        ("meta/neurons/area.npy", npy(["V1"] * 4), r"area.npy must be text of shape \(5,\)"),
        ("meta/neurons/cell_motor_coordinates.npy", npy(np.zeros((5, 2))), r"must be numbers of shape \(5, 3\)"),
        ("meta/statistics/responses/all/std.npy", npy(np.ones(4)), r"std.npy must be of shape \(5,\), found \(4,\)"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, zipped, name, content, message):
    session = toy_session()
    path = write_changed(session, tmp_path, {name: content}, zipped=zipped)
    config = OWN
    if name == "meta/neurons/unit_ids.npy" and content:  # one neuron too many is found by what comes first
        (message, config) = (r"meta/neurons/area.npy must be text of shape \(6,\)", OWN)
    with pytest.raises(RecordingError, match=message) as raised:
        build_recording(config, KEY, tmp_path)
    assert str(raised.value).startswith(path.name)


def test_images_that_are_not_finite_are_refused(tmp_path):
    images = toy_session().images.astype(np.float32)
    images[2, 0, 5, 5] = np.nan
    with pytest.raises(RecordingError, match="data/images: a stimulus holds 1 values that are not finite"):
        build(toy_session(images=images), tmp_path)


@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_truncated_archive_is_said_to_be_one(tmp_path, kept):
    path = write_session(toy_session(), tmp_path, zipped=True)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(RecordingError, match=rf"^{path.name}: not a readable zip archive, truncated or damaged"):
        build_recording(OWN, KEY, tmp_path)


def test_a_damaged_member_is_named(tmp_path):
    path = write_session(toy_session(), tmp_path, zipped=True)
    content = bytearray(path.read_bytes())
    start = content.index(b"data/responses/11.npy") + 155  # behind its name and header
    content[start] ^= 255
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"data/responses/11\.npy cannot be read, truncated or damaged"):
        build_recording(OWN, KEY, tmp_path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    session = toy_session()
    write_changed(session, tmp_path, {"meta/trials/tiers.npy": None}, zipped=True)
    with pytest.raises(RecordingError, match=r"expected one session of the SENSORIUM layout.*tiers\.npy is missing"):
        build_recording(OWN, KEY, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scale", 0.3, "data_io.scale is 1 or one divided by a whole number"),
        ("scale", 2, "data_io.scale is 1 or one"),
        ("time_order", "clock", "data_io.time_order is one of"),
        ("nan_responses", "zero", "data_io.nan_responses is one of"),
        ("chanels", 3, r"unknown keys \['chanels'\]"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        list_sessions(OWN | {key: value}, tmp_path)


def test_a_session_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_session(toy_session(), tmp_path, zipped=True)
    with pytest.raises(FileNotFoundError, match=rf"session '1-2-3' needs static<animal>.*\['{KEY}'\]"):
        build_recording(OWN, "1-2-3", tmp_path)
