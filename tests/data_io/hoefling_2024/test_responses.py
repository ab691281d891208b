"""Hoefling et al. 2024: responses are the published ones, of the cells that pass the published filters."""

import numpy as np
import pytest

from coread.data_io.quality_filters import ALL_SESSIONS, tabulate
from coread.data_io.sources import build_recording, build_recordings, list_sessions
from coread.recording import RecordingError, read_recording, write_recording
from tests.data_io.hoefling_2024.short_clips import CLIP, CONFIG, NAME, SHORT, edit, lay_out, noise_field
from tests.published_data.hoefling_2024 import (
    SCAN_HZ,
    Field,
    make_movies,
    write_fields,
    write_movies,
)

# ------------------------------------------------------------------------------------------------------------ responses


def published_responses(traces, times, triggers, by_std):
    """Traces at frame times as the published package computes them."""
    at = np.concatenate([np.linspace(trigger, trigger + 19 / 30, CLIP) for trigger in triggers])
    upsampled = np.stack([np.interp(at, times[cell], traces[cell]) for cell in range(len(traces))])
    return upsampled / upsampled.std(axis=1, keepdims=True) if by_std else upsampled


@pytest.mark.parametrize("times_as", ["traces_times", "t0_dt"])
@pytest.mark.parametrize("normalization", ["none", "published"])
def test_responses_are_the_published_ones(tmp_path, times_as, normalization):
    one = noise_field(scan_hz=SCAN_HZ, times_as=times_as)
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT | {"response_normalization": normalization}, NAME, tmp_path)
    expected = published_responses(*one.traces(), one.triggers(), normalization == "published")
    np.testing.assert_allclose(recording.responses.T, expected, rtol=2e-5, atol=1e-5)
    assert recording.unit == {"none": "inferred spikes (a.u.)", "published": "standard deviations"}[normalization]


def test_the_default_lets_no_test_response_reach_the_training_responses(tmp_path):
    one = noise_field()
    lay_out(tmp_path, {NAME: one})
    first = build_recording(SHORT, NAME, tmp_path)
    tested = first.bin_column("tier") == "test"
    one.answers[tested] *= 7.0
    write_fields(tmp_path, {NAME: one})
    second = build_recording(SHORT, NAME, tmp_path)
    np.testing.assert_array_equal(first.responses[~tested], second.responses[~tested])
    assert (first.responses[tested] != second.responses[tested]).all()


@pytest.mark.parametrize(
    ("trace_type", "factor", "offset"), [("raw", 1, 3), ("smoothed", 0, 3), ("preprocessed", 2, 0), ("detrended", 1, 0)]
)
def test_other_traces_by_config(folder, trace_type, factor, offset):
    spikes = build_recording(SHORT, NAME, folder).responses
    recording = build_recording(SHORT | {"trace_type": trace_type}, NAME, folder)
    np.testing.assert_allclose(recording.responses, factor * spikes + offset, rtol=1e-5, atol=1e-5)
    assert recording.unit == f"{trace_type} fluorescence (a.u.)"


def test_both_published_names_of_spikes(tmp_path):
    responses = []
    for name in ("inferred_spikes", "spikes"):
        lay_out(tmp_path, {NAME: noise_field(name_of_spikes=name)})
        responses.append(build_recording(SHORT, NAME, tmp_path).responses)
    np.testing.assert_array_equal(*responses)


def test_bins_without_a_value_do_not_count(tmp_path):
    one = noise_field()
    one.answers[:7, 1] = np.nan  # inferred spikes have no value at the edges of a recording
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert not recording.valid[:7].any()
    assert recording.valid[7:].all()
    assert np.isfinite(recording.responses).all()
    with pytest.raises(RecordingError, match=f"{NAME}.*7 response values are not finite.*nan_responses to mask"):
        build_recording(SHORT | {"nan_responses": "error"}, NAME, tmp_path)


def test_the_last_value_is_not_drawn_out_over_frames_that_were_not_recorded(tmp_path):
    one = noise_field()
    lay_out(tmp_path, {NAME: one})
    values, times = one.traces()
    edit(tmp_path, natural_inferred_spikes=values[:, 10:-50], natural_traces_times=times[:, 10:-50])
    recording = build_recording(SHORT, NAME, tmp_path)
    # one interval beyond the first and last sample still counts
    assert np.flatnonzero(~recording.valid).tolist() == [*range(9), *range(len(values.T) - 49, len(values.T))]


def test_a_cell_without_any_value_is_left_out_and_counted(tmp_path):
    one = noise_field()
    one.answers[:, 1] = np.nan
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert recording.neurons["roi_id"].tolist() == [3, 7]
    assert recording.session_info["roi_ids"].tolist() == [3, 7]
    assert recording.valid.all()
    assert recording.session_info["quality_step"][-1] == "no responses"
    assert recording.session_info["quality_n_removed"].tolist() == [0, 0, 0, 1]


# -------------------------------------------------------------------------------------------------------------- quality


def test_the_quality_filters_are_the_published_ones_in_the_published_order(tmp_path):
    #                          passes  type  both   QI  one QI  conf  at the thresholds
    group = np.array([          1,     33,    46,   32,    5,    6,    32])  # fmt: skip
    d_qi = np.array([          0.9,    0.9,  0.1,  0.59,  0.1,  0.9,   0.6])  # fmt: skip
    chirp_qi = np.array([      0.9,    0.9,  0.1,  0.34,  0.35, 0.9,   0.0])  # fmt: skip
    confidence = np.array([    0.9,    0.9,  0.1,   0.9,  0.9,  0.24,  0.25])  # fmt: skip
    one = noise_field(7, group_assignment=group, d_qi=d_qi, chirp_qi=chirp_qi, confidence=confidence)
    lay_out(tmp_path, {NAME: one})
    recording = build_recording(SHORT, NAME, tmp_path)
    assert recording.neurons["roi_id"].tolist() == [3, 11, 15]
    assert recording.neurons["cell_type"].tolist() == ["1", "5", "32"]
    assert recording.session_info["quality_step"].tolist() == [
        "cell_type", "response_quality", "classifier_confidence"
    ]  # fmt: skip
    assert recording.session_info["quality_n_before"].tolist() == [7, 5, 4]
    assert recording.session_info["quality_n_removed"].tolist() == [2, 1, 1]
    # the responses are those of the cells that stay
    np.testing.assert_allclose(recording.responses, one.answers[:, [0, 4, 6]], rtol=1e-5)
    few = SHORT["quality_filters"] + [{"step": "n_cells", "more_cells_than": 3}]
    with pytest.raises(RecordingError, match=f"{NAME}: no cell passes the quality filters .*n_cells -3"):
        build_recording(SHORT | {"quality_filters": few}, NAME, tmp_path)


def test_the_published_chain_of_all_67_fields(tmp_path):
    """7863 cells, of which the steps remove 3034, 980 and 705, and 3144 are left in 67 sessions."""
    rng = np.random.default_rng(0)
    n_sessions, removed, left = 67, (3034, 980, 705), 3144
    fate = rng.permutation(np.repeat(np.arange(4), [*removed, left]))
    session = np.concatenate([np.arange(n_sessions), rng.integers(0, n_sessions, left - n_sessions)])
    home = rng.integers(0, n_sessions, len(fate))
    home[fate == 3] = rng.permutation(session)  # a cell that passes in every field
    config = CONFIG | {"clip_length": 2, "clip_duration_s": 1 / 30, "train_blocks": [1, 1]}
    fields = {}
    for index in range(n_sessions):
        fates = fate[home == index]
        n = len(fates)
        good, bad = rng.uniform(0.6, 1.0, (2, n)), rng.uniform(0.0, 0.35, (2, n))
        fields[f"session_{index}"] = Field(
            rng.gamma(2.0, 1.0, (10, n)),
            clip_length=2,
            group_assignment=np.where(fates == 0, rng.integers(33, 47, n), rng.integers(1, 33, n)),
            # what fails a step may fail those after it too
            d_qi=np.where((fates == 1) | ((fates == 0) & (rng.random(n) < 0.5)), bad[0], good[0]),
            chirp_qi=np.where(fates == 1, bad[1] * 0.99, rng.uniform(0, 1, n)),
            confidence=np.where((fates == 2) | ((fates < 2) & (rng.random(n) < 0.5)), 0.2, rng.uniform(0.25, 1, n)),
        )
    write_movies(tmp_path, make_movies(rng, (2, 3, 2), n_clips=2, n_test=1, clip_length=2, n_sequences=2))
    write_fields(tmp_path, fields)
    assert list_sessions(config, tmp_path) == sorted(fields)
    recordings = build_recordings(config, tmp_path)
    assert len(recordings) == 67
    assert sum(recording.n_neurons for recording in recordings) == 3144
    table = tabulate(recordings)
    assert len(table) == 68 * 3
    total = table[table["session"] == ALL_SESSIONS]
    assert total["n_before"].tolist() == [7863, 4829, 3849]
    assert total["n_removed"].tolist() == [3034, 980, 705]
    assert total["n_kept"].tolist() == [4829, 3849, 3144]
    by_session = table.groupby("session")["n_before"].first().drop(ALL_SESSIONS)
    assert by_session.to_dict() == {name: one.n_cells for name, one in fields.items()}


def test_fields_without_a_cell_that_passes_are_no_sessions(tmp_path):
    bad = {"session_2_dorsal1_20200101": noise_field(d_qi=np.zeros(3), chirp_qi=np.zeros(3))}
    lay_out(tmp_path, {NAME: noise_field()} | bad)
    assert list_sessions(SHORT, tmp_path) == [NAME]
    unfiltered = SHORT | {"quality_filters": []}
    assert len(list_sessions(unfiltered, tmp_path)) == 2
    write_recording(build_recording(unfiltered, *bad, tmp_path), tmp_path / "unfiltered.h5")
    assert tabulate([read_recording(tmp_path / "unfiltered.h5")]).empty
    with pytest.raises(RecordingError, match=r"session_2_dorsal1_20200101: no cell passes .*3 cells: .*quality -3"):
        build_recording(SHORT, "session_2_dorsal1_20200101", tmp_path)
