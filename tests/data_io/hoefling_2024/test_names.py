"""Höfling et al. 2024 under the published names: planted cells from the response file through containers to loaders."""

import h5py
import numpy as np
import pytest

from coread.data_io.base import ContainerError, MoviesTrainTestSplit
from coread.data_io.hoefling_2024 import constants
from coread.data_io.hoefling_2024.dataloaders import natmov_dataloaders_v2
from coread.data_io.hoefling_2024.responses import filter_responses, make_final_responses, upsample_traces
from coread.data_io.hoefling_2024.stimuli import movies_from_pickle
from tests.published_data.hoefling_2024 import (
    LOW_RES,
    RESPONSES,
    Field,
    make_movies,
    shown_to,
    write_fields,
    write_movies,
)

SHAPE = (2, 3, 4)
N_CELLS = 24  # one per pixel
VALIDATION = [4, 0, 107]
EYES = {"session_1": ("right", 3), "session_2": ("left", 7)}


def planted(seen: np.ndarray) -> np.ndarray:
    """Return cells (frame, neuron) each of which answers with a pixel, in the order of the pixels."""
    return seen.reshape(len(seen), -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hoefling")
    content = make_movies(np.random.default_rng(0), SHAPE)
    write_movies(folder, content)
    fields = {name: Field(planted(shown_to(content, eye, seq)), eye, seq) for name, (eye, seq) in EYES.items()}
    fields["session_1"].d_qi = np.where(np.arange(N_CELLS) == 5, 0.59, 0.6)
    fields["session_1"].chirp_qi = np.where(np.arange(N_CELLS) == 5, 0.34, 0.0)
    fields["session_2"].confidence = np.where(np.arange(N_CELLS) < 3, 0.2, 0.8)
    few = Field(planted(shown_to(content))[:, :10], "right", 0)
    write_fields(folder, fields | {"session_few": few})
    return folder, content


@pytest.fixture(scope="module")
def kept(folder):
    with h5py.File(folder[0] / RESPONSES) as file:
        return filter_responses(file, filter_cell_types=True, cell_types_list=list(range(1, 33)))


@pytest.fixture(scope="module")
def responses(kept):
    return make_final_responses(kept, norm_by_std=False)


def test_filters_keep_the_cells_that_pass_all_steps(folder, kept, capsys):
    assert list(kept) == ["session_1", "session_2"], "ten cells are not more than ten"
    pixels = {name: (field["roi_ids"] - 3) // 2 for name, field in kept.items()}
    assert pixels["session_1"].tolist() == [cell for cell in range(N_CELLS) if cell != 5]
    assert pixels["session_2"].tolist() == list(range(3, N_CELLS))
    first = kept["session_1"]
    assert first["natural_inferred_spikes"].shape[0] == first["group_confidences"].shape[0] == N_CELLS - 1
    assert (first["roi_mask"].shape, first["eye"], first["scan_sequence_idx"]) == ((64, 64), "right", 3)
    with h5py.File(folder[0] / RESPONSES) as file:
        both = filter_responses(
            file, True, 7, qi_logic="and", chirp_qi=0.0, filter_counts=False, classifier_confidence=None, verbose=True
        )
    assert [(name, field["group_assignment"].tolist()) for name, field in both.items()] == [
        (name, [7]) for name in ("session_1", "session_2", "session_few")
    ]
    printed = capsys.readouterr().out
    assert "cell_type" in printed
    assert "all sessions" in printed


def test_responses_are_in_the_order_in_which_clips_were_seen(folder, responses):
    for name, (eye, sequence) in EYES.items():
        seen = planted(shown_to(folder[1], eye, sequence)).reshape(123, 150, N_CELLS)
        cells = [cell for cell in range(N_CELLS) if cell != 5] if name == "session_1" else list(range(3, N_CELLS))
        train = np.concatenate([seen[5:59], seen[64:118]])[..., cells].reshape(-1, len(cells))
        np.testing.assert_allclose(responses[name].train, train.T, atol=1e-3)
        repeats = np.stack(
            [seen[clips][..., cells].reshape(750, -1).T for clips in (slice(5), slice(59, 64), slice(118, 123))]
        )
        np.testing.assert_allclose(responses[name].test_by_trial_dict["test"], repeats, atol=1e-3)
        np.testing.assert_allclose(responses[name].test_response, repeats.mean(0), atol=1e-3)
        assert responses[name].session_kwargs["eye"] == eye


def test_published_choices_of_final_responses(folder, kept):
    normalised = make_final_responses({"session_2": kept["session_2"]}, scale_traces=2.0)["session_2"]
    everything = np.concatenate([normalised.train, *normalised.test_by_trial_dict["test"]], axis=1)
    np.testing.assert_allclose(everything.std(axis=1), 2.0, rtol=1e-5)
    detrended = make_final_responses({"a": kept["session_2"]}, trace_type="detrended", norm_by_std=False)["a"]
    spikes = make_final_responses({"a": kept["session_2"]}, norm_by_std=False)["a"]
    np.testing.assert_allclose(detrended.train, spikes.train, atol=1e-5)
    # the only threshold that is given decides
    assert make_final_responses({"session_1": kept["session_1"]}, chirp_qi=0.1) == {}
    with pytest.raises(ValueError, match="other_stimuli"):
        make_final_responses(kept, "chirp")
    with pytest.raises(ValueError, match="trace_type is one of"):
        make_final_responses(kept, trace_type="noise")
    short = kept["session_1"] | {"natural_trigger_times": kept["session_1"]["natural_trigger_times"][:, :-1]}
    with pytest.raises(ContainerError, match="session_1: 122 clips were shown"):
        make_final_responses({"session_1": short})


def test_traces_are_taken_at_the_frames_of_their_stimulus():
    times = np.tile(np.arange(0, 80, 0.5), (2, 1))
    traces = np.stack([times[0], 3 * times[0] + 1])
    chirp = upsample_traces(
        np.array([1.0, 6.0, 35.0, 40.0]), traces, times, constants.STIMULI_IDS["chirp"], norm_by_std=False
    )
    assert chirp.shape == (2, 2 * 990), "two triggers each"
    np.testing.assert_allclose(chirp[0, [0, 989, 990]], [1.0, 1 + 32.98999999, 35.0], rtol=1e-6)
    np.testing.assert_allclose(chirp[1], 3 * chirp[0] + 1, rtol=1e-6)
    clips = upsample_traces(np.array([1.0, 6.0]), traces, times, 5, target_fr=60)
    assert clips.shape == (2, 600)
    np.testing.assert_allclose(clips.std(axis=1), 1.0, rtol=1e-5)
    bars = upsample_traces(np.array([1.0]), traces, times, 2, norm_by_std=False)
    np.testing.assert_allclose(bars[0], np.linspace(1, 5.054001, 123), rtol=1e-6)
    with pytest.raises(ValueError, match="stim_id is one of"):
        upsample_traces(np.array([1.0]), traces, times, 3)


def test_loaders_show_every_session_its_own_order_and_eye(folder, responses):
    movies = movies_from_pickle(folder[0] / LOW_RES)
    loaders = natmov_dataloaders_v2(responses, movies, VALIDATION, train_chunk_size=50, batch_size=16)
    assert {split: list(by_session) for split, by_session in loaders.items()} == {
        split: ["session_1", "session_2"] for split in ("train", "validation", "test")
    }
    for name, (eye, sequence) in EYES.items():
        windows = loaders["train"][name].dataset.windows
        assert np.shares_memory(windows.recording.stimuli["train"].frames, movies.train), "the movie is there once"
        cells = [cell for cell in range(N_CELLS) if cell != 5] if name == "session_1" else list(range(3, N_CELLS))
        for split, length in (("train", 50), ("validation", 150), ("test", 750)):
            for point in loaders[split][name]:
                assert point.inputs.shape[2] == length
                seen = point.inputs.transpose(1, 2).flatten(2)
                np.testing.assert_allclose(seen[..., cells], point.targets, atol=2e-3)
        base = [folder[1]["train"][:, clip * 150 : (clip + 1) * 150] for clip in VALIDATION]
        expected = np.stack(base)[..., ::-1] if eye == "left" else np.stack(base)
        shown = np.concatenate([point.inputs.numpy() for point in loaders["validation"][name]])
        np.testing.assert_allclose(shown, expected, atol=1e-5)
        assert _places(folder[1], loaders["train"][name], eye, sequence) == _allowed_places(folder[1], sequence)


def _places(content, loader, eye, sequence):
    """Return the bins that a pass over a loader shows, after checking that windows stay inside a block."""
    order = content["random_sequences"][:, sequence].astype(int)
    movie = content["train"][..., ::-1] if eye == "left" else content["train"]
    presented = movie.reshape(2, 108, 150, 3, 4)[:, order].reshape(2, -1, 3, 4).transpose(1, 0, 2, 3)
    number = {np.round(frame, 3).tobytes(): bin_ for bin_, frame in enumerate(presented + 0.0)}
    bins = set()
    for point in loader:
        for window in np.round(point.inputs.transpose(1, 2).numpy() + 0.0, 3):
            shown = [number[frame.tobytes()] for frame in window]
            assert shown == list(range(shown[0], shown[0] + len(shown)))
            assert shown[0] // (54 * 150) == shown[-1] // (54 * 150), "the test movie came between"
            bins |= set(shown)
    return bins


def _allowed_places(content, sequence):
    order = content["random_sequences"][:, sequence].astype(int)
    return {place * 150 + frame for place in np.flatnonzero(~np.isin(order, VALIDATION)) for frame in range(150)}


def test_what_does_not_fit_is_named(responses, folder):
    movies = movies_from_pickle(folder[0] / LOW_RES)
    with pytest.raises(ContainerError, match=r"session 'session_1'.*\[108\] lie outside"):
        natmov_dataloaders_v2(responses, movies, [108])
    with pytest.raises(ContainerError, match="session 'session_1': expected 100 clips of 150 bins, found 16200"):
        natmov_dataloaders_v2(responses, movies, [1], num_clips=100)
    one_order = MoviesTrainTestSplit(train=movies.train, test=movies.test_movie, norm_mean=0.0, norm_std=1.0)
    with pytest.raises(ContainerError, match="scan_sequence_idx is 3, but there are 1"):
        natmov_dataloaders_v2(responses, one_order, [1])


def test_groups_have_names_and_classes():
    assert list(constants.RGC_GROUP_NAMES_DICT) == list(range(1, 47))
    classes = constants.RGC_GROUP_GROUP_ID_TO_CLASS_NAME
    found = {name: [group for group in classes if classes[group] == name] for name in classes.values()}
    assert {name: (groups[0], groups[-1]) for name, groups in found.items()} == {
        "OFF": (1, 9),
        "ON-OFF": (10, 14),
        "Fast On": (15, 20),
        "SLOW ON": (21, 28),
        "Uncertain RGC": (29, 32),
        "AC": (33, 46),
    }
