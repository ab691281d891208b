"""NWB: our recordings there and back."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from coread.cli.main import main
from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.nwb import read_nwb, write_nwb
from coread.data_io.sources import build_recordings
from coread.recording import Stimulus, content_digest, read_recording, write_recording
from tests.conftest import fabricate_recording

pynwb = pytest.importorskip("pynwb", reason="the extra `nwb` is not installed")

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data_io" / "nwb.yaml").read_text())
BEGUN = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)


def rich_recording():
    """Everything that the format holds: blanks, masked bins, trials out of order, behaviour, texts, numbers."""
    rng = np.random.default_rng(3)
    plain = fabricate_recording()
    frame, valid = plain.frame.copy(), plain.valid.copy()
    frame[5:8], valid[20:30] = -1, False
    return replace(
        plain,
        frame=frame,
        valid=valid,
        trials=plain.trials.assign(
            time_order=[6, 2, 4, 0, 1, 3, 5],
            withheld=[False] * 6 + [True],
            contrast=np.linspace(0, 1, 7),
            note=[f"trial {row}" for row in range(7)],
        ),
        neurons=plain.neurons.assign(cell_type=["ON", "OFF", "ON", ""], depth_um=[1.5, np.nan, 2.0, 3.0]),
        behaviour=rng.normal(size=(plain.n_bins, 3)).astype(np.float32),
        pupil_center=rng.normal(size=(plain.n_bins, 2)).astype(np.float32),
        session_info={
            "roi_mask": np.arange(16).reshape(4, 4),
            "eye": np.array("left"),
            "names": np.array(["a", "bé"], dtype=object),
            "t0": np.array(2.5),
            "grid": np.array([["x", "y"], ["z", "w"]], dtype=object),
            "nothing": np.zeros((0, 3)),
        },
        species="Mus musculus",
        area="retina",
        mirror="width",
        source={"a.h5": "ab", "b.npy": "cd"},
    )


def two_channel_recording():
    rng = np.random.default_rng(4)
    movie = Stimulus(
        rng.normal(size=(180, 2, 6, 8)).astype(np.float16), 25.0, 1 / 3, -0.1, blank_value=0.2, pixel_um=7.5
    )
    test = Stimulus(rng.normal(size=(30, 2, 6, 8)).astype(np.float32), 30.0, pixel_deg=0.1)
    return replace(fabricate_recording(), stimuli={"movie": movie, "test": test}, unit="dF/F")


@pytest.mark.parametrize("make", [rich_recording, two_channel_recording, fabricate_recording])
def test_a_recording_comes_back_as_it_was(make, tmp_path):
    recording = make()
    path = tmp_path / "out.nwb"
    write_nwb(recording, path)
    assert pynwb.validate(path=str(path)) == []
    back = read_nwb(path)
    assert content_digest(back) == content_digest(recording)
    for name in ("trial", "frame", "responses", "valid", "behaviour", "pupil_center"):
        kept, written = getattr(back, name), getattr(recording, name)
        assert (kept is None and written is None) or (kept.dtype == written.dtype and (kept == written).all())
    pd.testing.assert_frame_equal(back.trials, recording.trials)
    pd.testing.assert_frame_equal(back.neurons, recording.neurons)
    assert back.source == recording.source
    for name, stimulus in recording.stimuli.items():
        assert back.stimuli[name].frames.dtype == stimulus.frames.dtype
        assert replace(back.stimuli[name], frames=stimulus.frames) == stimulus


def test_what_others_find_in_the_file(tmp_path):
    recording = rich_recording()
    write_nwb(recording, tmp_path / "out.nwb", BEGUN)
    with pynwb.NWBHDF5IO(str(tmp_path / "out.nwb"), "r") as io:
        nwbfile = io.read()
        assert nwbfile.session_start_time == BEGUN
        assert nwbfile.subject.species == "Mus musculus"
        assert nwbfile.units["cell_type"].data[:].tolist() == ["ON", "OFF", "ON", ""]
        trials = nwbfile.trials.to_dataframe()
        assert trials["start_time"].is_monotonic_increasing
        assert trials["time_order"].tolist() == list(range(7))
        shown = nwbfile.stimulus["movie"]
        assert type(shown).__name__ == "IndexSeries"
        assert shown.indexed_timeseries is nwbfile.stimulus_template["movie"]
        assert shown.indexed_timeseries.data.shape == (180, 6, 8)
        # the trial that was first in time is row 3, a repeat of the test stimulus
        first = nwbfile.stimulus["test"]
        assert first.timestamps[0] == 0
        responses = nwbfile.processing["coread"]["responses"]
        assert (responses.data[:30] == recording.responses[recording.trial == 3]).all()


def test_lazy_frames_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("coread.data_io.nwb.CHUNK_BYTES", 480)
    monkeypatch.setattr("coread.data_io.nwb.CHUNKS_PER_READ", 2)
    recording = fabricate_recording()
    asked = []

    def read(rows):
        asked.append(len(rows))
        return recording.stimuli["movie"].frames[rows]

    lazy = replace(recording.stimuli["movie"], frames=LazyFrames((180, 1, 6, 8), np.uint8, read))
    whole = replace(recording, stimuli=recording.stimuli | {"movie": lazy})
    digest = content_digest(whole)
    asked.clear()
    write_nwb(whole, tmp_path / "out.nwb")
    assert 20 in asked
    assert content_digest(read_nwb(tmp_path / "out.nwb")) == digest


def test_the_command_writes_what_the_reader_reads(tmp_path, capsys):
    recording = rich_recording()
    write_recording(recording, tmp_path / "a.h5")
    output = tmp_path / "folder" / "a.nwb"
    main(["export-nwb", str(tmp_path / "a.h5"), str(output), "--session-start-time", "2024-05-17T09:30:00+02:00"])
    assert "session session_0 of fabricated" in capsys.readouterr().out
    (built,) = build_recordings(CONFIG, output.parent)
    assert (built.dataset, built.session) == ("nwb", "a")
    same = replace(built, dataset=recording.dataset, session=recording.session)
    assert content_digest(same) == content_digest(read_recording(tmp_path / "a.h5"))
    assert set(built.source) == {"a.h5", "b.npy", "a.nwb"}
    for arguments, message in (
        ([str(output)], "a.nwb exists; --overwrite replaces it"),
        ([str(output), "--overwrite", "--session-start-time", "2024-05-17"], "needs a time zone, found 2024-05-17"),
        ([str(tmp_path / "a.hdf")], "an NWB file ends in .nwb"),
    ):
        with pytest.raises(SystemExit):
            main(["export-nwb", str(tmp_path / "a.h5"), *arguments])
        assert message in capsys.readouterr().err
