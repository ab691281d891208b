"""NWB: files of others with units, traces, movies and sets of images."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from coread.data_io.lazy_frames import LazyFrames
from coread.data_io.nwb import read_nwb
from coread.data_io.sources import build_recordings, list_sessions, source_files
from coread.data_io.sta import compute_sta
from coread.extras import MissingExtraError
from coread.recording import RecordingError

pynwb = pytest.importorskip("pynwb", reason="the extra `nwb` is not installed")

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "configs" / "data_io" / "nwb.yaml").read_text())
BEGUN = datetime(2024, 5, 17, 9, 30, tzinfo=UTC)
CELLS = ((0, 0, 0), (3, 4, 2), (2, 1, 1))  # y, x, lag
SHAPE = (4, 5)


def new_file() -> "pynwb.NWBFile":
    return pynwb.NWBFile(session_description="toy", identifier="toy", session_start_time=BEGUN)


def frame_times(rng: np.random.Generator, n_frames: int, begin: float) -> np.ndarray:
    """Return uneven frame times around 50 Hz."""
    return begin + np.cumsum(rng.uniform(0.018, 0.022, n_frames))


def add_spiking_cells(nwbfile, shown: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> None:
    """Add cells that fire as often in the time of a frame as their pixel says `lag` frames ago, and noise."""
    nwbfile.add_unit_column("quality", "sorting")
    for y, x, lag in CELLS:
        spikes = []
        for times, frames in shown:
            stops = np.append(times[1:], times[-1] + 0.018)
            counts = np.concatenate([np.zeros(lag, int), frames[: len(frames) - lag, y, x]])
            for start, stop, count in zip(times, stops, counts, strict=True):
                spikes.append(start + (stop - start) * np.sort(rng.uniform(0, 1, count)))
        nwbfile.add_unit(spike_times=np.concatenate(spikes), quality="good")
    nwbfile.add_unit(spike_times=np.array([0.5, 1.5]), quality="noise")


def write_spiking(path: Path, *, transpose: bool = False) -> dict[str, np.ndarray]:
    """Write noise in two presentations with a pause, a film shown twice, and a trial table that knows the film."""
    rng = np.random.default_rng(5)
    nwbfile = new_file()
    noise = rng.integers(0, 4, (900, *SHAPE)).astype(np.uint8)
    film = rng.integers(0, 4, (40, *SHAPE)).astype(np.float64)
    times = np.concatenate([frame_times(rng, 500, 1.0), frame_times(rng, 400, 20.0)])
    film_times = [frame_times(rng, 40, begin) for begin in (40.0, 45.0)]
    stored = noise.transpose(0, 2, 1) if transpose else noise
    nwbfile.add_stimulus(
        pynwb.image.ImageSeries(name="noise", data=stored, unit="n.a.", timestamps=times, conversion=0.5)
    )
    template = pynwb.image.OpticalSeries(
        name="film",
        data=film.transpose(0, 2, 1) if transpose else film,
        unit="n.a.",
        rate=50.0,
        field_of_view=[1.0, 1.0],
        distance=1.0,
        orientation="up",
    )
    nwbfile.add_stimulus_template(template)
    index = pynwb.image.IndexSeries.__new__(pynwb.image.IndexSeries, in_construct_mode=True)
    shown = np.tile(np.arange(40), 2).astype(np.uint32)
    index.__init__(
        name="film", data=shown, unit="N/A", indexed_timeseries=template, timestamps=np.concatenate(film_times)
    )
    nwbfile.add_stimulus(index)
    nwbfile.add_stimulus(pynwb.TimeSeries(name="photodiode", data=np.zeros((10, 2)), unit="V", rate=1000.0))
    parts = [(times[:500], noise[:500]), (times[500:], noise[500:]), *((one, film.astype(int)) for one in film_times)]
    add_spiking_cells(nwbfile, parts, rng)
    nwbfile.add_trial_column("is_test", "test or not")
    nwbfile.add_trial_column("presentation", "counts repeats")
    for begin, end, is_test, number in ((0.0, 15.0, 0, 0), (19.0, 25.0, 0, 0), (39.0, 44.0, 1, 7), (44.0, 49.0, 1, 8)):
        nwbfile.add_trial(start_time=begin, stop_time=end, is_test=is_test, presentation=number)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return {"noise": noise, "film": film, "times": times}


@pytest.mark.parametrize("transpose", [False, True])
def test_planted_cells_with_uneven_frame_times_are_recovered(tmp_path, transpose):
    written = write_spiking(tmp_path / "a.nwb", transpose=transpose)
    config = CONFIG | {"test_stimuli": ["film"], "keep_units": {"quality": ["good"]}, "transpose_frames": transpose}
    (recording,) = build_recordings(config, tmp_path)
    first, past = recording.trial_bounds()
    assert recording.trials["stimulus"].tolist() == ["noise", "noise", "film", "film"]
    assert (past - first).tolist() == [500, 400, 40, 40]
    assert recording.trials["tier"].tolist() == ["train", "train", "test", "test"]
    assert recording.trials["repeat"].tolist() == [0, 0, 0, 1]
    for row, (y, x, lag) in enumerate(CELLS):
        average = np.abs(compute_sta(recording, recording.bin_column("tier") == "train", 3)[row, :, 0])
        assert np.unravel_index(average.argmax(), average.shape) == (lag, y, x)
        for begin, end, movie in ((0, 500, written["noise"][:500]), (900, 940, written["film"])):
            assert (recording.responses[begin + lag : end, row] == movie[: end - begin - lag, y, x]).all()
    noise = recording.stimuli["noise"]
    assert isinstance(noise.frames, LazyFrames)
    assert noise.frames.dtype == np.uint8
    assert (noise.frames[:][:, 0] * noise.scale == written["noise"] * 0.5).all()
    assert recording.stimuli["film"].frames.dtype == np.uint8  # stored as float64, whole numbers
    assert recording.rate_hz == pytest.approx(50, rel=0.02)
    assert recording.session_info["quality_n_removed"].tolist() == [1]
    assert np.allclose(recording.session_info["bin_start_s"][:900], written["times"])
    assert recording.unit == "spike count"


def test_a_table_of_trials_says_tier_and_repeat_and_leaves_out_what_is_outside(tmp_path):
    write_spiking(tmp_path / "a.nwb")
    table = {"trials": "trials", "tier_column": "is_test", "tiers": {"0": "train", "1": "test"}}
    (recording,) = build_recordings(CONFIG | table | {"repeat_column": "presentation"}, tmp_path)
    first, past = recording.trial_bounds()
    assert recording.trials["tier"].tolist() == ["train", "train", "test", "test"]
    assert recording.trials["repeat"].tolist() == [0, 0, 7, 8]
    assert (past - first).tolist()[0] == 500
    assert (past - first).tolist()[1] == (recording.session_info["bin_start_s"] >= 19)[500:].sum() - 80
    assert recording.session_info["bin_start_s"][past[1] - 1] < 25.0


def write_imaging(path: Path, n_images: int = 6, n_shown: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write flashed images (a set with an order of its own) and traces at another rate, up to before the end."""
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage, IndexSeries
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel

    rng = np.random.default_rng(6)
    nwbfile = new_file()
    pictures = rng.integers(0, 256, (n_images, *SHAPE), np.uint8)
    images = [GrayscaleImage(name=f"picture {index}", data=picture) for index, picture in enumerate(pictures)]
    order = rng.permutation(n_images)
    references = ImageReferences(name="order_of_images", data=[images[index] for index in order])
    container = Images(name="set", images=images, description="toy", order_of_images=references)
    nwbfile.add_stimulus_template(container)
    shown = rng.integers(0, n_images, n_shown)
    times = 3.0 + 0.25 * np.arange(n_shown)
    nwbfile.add_stimulus(
        IndexSeries(
            name="flashes", data=shown.astype(np.uint32), unit="N/A", indexed_images=container, timestamps=times
        )
    )
    device = nwbfile.create_device(name="microscope")
    channel = OpticalChannel(name="green", description="toy", emission_lambda=510.0)
    plane = nwbfile.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="toy",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP",
        location="V1",
    )
    segmentation = ImageSegmentation()
    module = nwbfile.create_processing_module("ophys", "toy")
    module.add(segmentation)
    rois = segmentation.create_plane_segmentation(description="toy", imaging_plane=plane, name="cells")
    rois.add_column("layer", "cortical layer")
    for row in range(3):
        rois.add_roi(pixel_mask=[(row, row, 1.0)], layer="L4" if row else "L2")
    samples = 2.9 + 0.1 * np.arange(700)  # ends before the last image
    on_screen = np.clip(np.floor((samples - 3.0) / 0.25).astype(int), 0, n_shown - 1)
    bright = pictures[order][shown].astype(np.float64)[on_screen]
    traces = np.stack([bright[:, 0, 0], bright[:, 3, 4], samples], axis=1)
    region = rois.create_roi_table_region("all", region=[0, 1, 2])
    traces_of = DfOverF()
    module.add(traces_of)
    traces_of.create_roi_response_series(name="responses", data=traces, rois=region, unit="dF/F", timestamps=samples)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return pictures[order], shown, samples


def test_traces_under_a_set_of_images(tmp_path):
    pictures, shown, samples = write_imaging(tmp_path / "b.nwb")
    (recording,) = build_recordings(CONFIG, tmp_path)
    assert recording.unit == "dF/F"
    stimulus = recording.stimuli["flashes"]
    assert (stimulus.frames[:, 0] * stimulus.scale + stimulus.offset == pictures).all()
    assert (recording.frame == shown).all()
    middle = 3.0 + 0.25 * np.arange(300) + 0.125
    assert (recording.valid == (middle <= samples[-1])).all()
    assert not recording.valid.all()
    assert np.allclose(recording.responses[recording.valid, 2], middle[recording.valid], atol=1e-4)
    for row, (y, x) in enumerate([(0, 0), (3, 4)]):
        average = np.abs(compute_sta(recording, recording.valid, 1)[row, :, 0])
        assert np.unravel_index(average.argmax(), average.shape) == (0, y, x)
    assert recording.neurons["layer"].tolist() == ["L2", "L4", "L4"]
    (chosen,) = build_recordings(CONFIG | {"keep_units": {"layer": ["L4"]}}, tmp_path)
    assert (chosen.responses == recording.responses[:, 1:]).all()


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.fixture(scope="module")
def spiking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spiking")
    write_spiking(folder / "a.nwb")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stimuli": ["nois"]},
            r"a\.nwb: data_io\.stimuli names \['nois'\], stimulus/presentation has .*'noise': 'ImageSer",
        ),
        ({"stimuli": ["photodiode"]}, r"'photodiode' must be numbers .*found float64 of shape \(10, 2\)"),
        (
            {"responses": "processing/ophys/F"},
            r"a\.nwb: data_io.responses is 'processing/ophys/F', the file has \['units'\]",
        ),
        (
            {"keep_units": {"snr": [1]}},
            r"data_io.keep_units names 'snr', units has the columns \['unit_id', 'quality'\]",
        ),
        ({"keep_units": {"quality": ["best"]}}, r"data_io.keep_units leaves none of the 4 neurons of units"),
        ({"trials": "blocks"}, r"data_io.trials is 'blocks', the file has the intervals \['trials'\]"),
        ({"tier_column": "is_test"}, r"data_io names the columns \['is_test'\], but no table of intervals"),
        (
            {"trials": "trials", "tier_column": "kind"},
            r"intervals 'trials' lack \['kind'\], found \['is_test', 'presentati",
        ),
        (
            {"trials": "trials", "tier_column": "is_test"},
            r"column 'is_test' holds \['0', '1'\]: data_io.tiers must say",
        ),
        ({"test_stimuli": ["chirp"]}, r"data_io.test_stimuli names \['chirp'\], the stimuli are \['film', 'noise'\]"),
        ({"tiers": {"1": "tset"}}, r"data_io.tiers gives the unknown tiers \['tset'\]"),
        ({"sessions": ["z"]}, r"session 'z' needs z\.nwb; found \['a\.nwb'\]"),
        ({"stimulus": "noise"}, r"data_io: unknown keys \['stimulus'\]"),
    ],
)
def test_wrong_settings_are_answered_with_what_the_file_has(spiking, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_recordings(CONFIG | changes, spiking)


def test_damage_and_missing_parts_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file there matches \*\.nwb"):
        list_sessions(CONFIG, tmp_path)
    nwbfile = new_file()
    nwbfile.add_stimulus(
        pynwb.image.ImageSeries(
            name="film",
            external_file=["film.avi"],
            format="external",
            rate=30.0,
            unit="n.a.",
            starting_frame=[0],
            num_samples=10,
        )
    )
    with pynwb.NWBHDF5IO(str(tmp_path / "c.nwb"), "w") as io:
        io.write(nwbfile)
    with pytest.raises(
        RecordingError, match=r"c\.nwb: stimulus 'film': its frames are in other files \(\['film.avi'\]\)"
    ) as held:
        build_recordings(CONFIG | {"stimuli": ["film"]}, tmp_path)
    with h5py.File(tmp_path / "c.nwb", "a"):  # the file is free again, while the error and what it holds is kept
        assert held.value is not None
    assert source_files(CONFIG, "c", tmp_path) == [tmp_path / "c.nwb"]
    with pytest.raises(RecordingError, match=r"c\.nwb: not written by coread"):
        read_nwb(tmp_path / "c.nwb")
    whole = (tmp_path / "c.nwb").read_bytes()
    (tmp_path / "c.nwb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"c\.nwb: not a readable NWB file, truncated or damaged"):
        build_recordings(CONFIG, tmp_path)
    with h5py.File(tmp_path / "c.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match=r"c\.nwb: not a readable NWB file"):
        build_recordings(CONFIG, tmp_path)
    monkeypatch.setitem(sys.modules, "pynwb", None)
    with pytest.raises(MissingExtraError, match=r"pynwb: pip install 'coread\[nwb\]'"):
        build_recordings(CONFIG, tmp_path)
