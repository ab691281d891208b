"""Hoefling et al. 2024: files in the published layout (openretina 1.1.1), with whatever cells a test plants.

What a session saw is put together here clip by clip, as the published loader does it, and not by index as the reader.
"""

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

STIMULI = "euler_lab/hoefling_2024/stimuli"
LOW_RES = f"{STIMULI}/rgc_natstim_18x16_joint_normalized_2024-01-11.pkl"
HIGH_RES = f"{STIMULI}/rgc_natstim_72x64_joint_normalized_2024-10-11.pkl"
RESPONSES = "euler_lab/hoefling_2024/responses/rgc_natstim_2024-08-14.h5"
FRAME_S = 1 / 30
SCAN_HZ = 7.8125  # 64 x 64 pixels
N_GROUPS = 46


def make_movies(rng, shape=(2, 18, 16), n_clips=108, n_test=5, clip_length=150, n_sequences=20):
    """Return the content of a movie pickle: white noise of 8 bits per pixel, normalised as published."""
    channels, height, width = shape

    def movie(clips):
        values = rng.integers(0, 256, (channels, clips * clip_length, height, width))
        return ((values - np.float32(36.979)) / np.float32(36.985)).astype(np.float32)

    content = {"train": movie(n_clips), "test": movie(n_test)}
    content["movie_stats"] = {"dichromatic": {"mean": np.array([36.979]), "sd": np.array([36.985])}}
    if n_sequences is not None:
        orders = [rng.permutation(n_clips) for _ in range(n_sequences)]
        content["random_sequences"] = np.stack(orders, axis=1).astype(np.uint8)
    return content


def write_movies(folder: Path, content, name=LOW_RES, protocol=4) -> Path:
    """Write the movie pickle at its published place below a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump(content, file, protocol)
    return path


def shown_to(content, eye="right", sequence=0, train_blocks=(54, 54), clip_length=150):
    """Return what an eye saw (frame, channel, height, width): test, block, test, block, ..., test."""
    order = content["random_sequences"][:, sequence] if "random_sequences" in content else None
    n_clips = content["train"].shape[1] // clip_length
    order = [int(clip) for clip in (range(n_clips) if order is None else order)]
    pieces = [content["test"]]
    for n in train_blocks:
        block, order = order[:n], order[n:]
        pieces += [content["train"][:, clip * clip_length : (clip + 1) * clip_length] for clip in block]
        pieces.append(content["test"])
    seen = np.concatenate(pieces, axis=1)
    if eye == "left":
        seen = np.flip(seen, axis=-1)
    return seen.transpose(1, 0, 2, 3)


@dataclass
class Field:
    """One session: what each cell answers to every frame (frame, neuron), and how that was recorded."""

    answers: np.ndarray
    eye: str | bytes = "right"
    sequence: int | None = 0
    clip_length: int = 150
    # a sample per frame, at the times of the frames; else samples of a scan of this rate, every ROI a little later
    scan_hz: float | None = None
    times_as: str = "traces_times"  # or "t0_dt"
    name_of_spikes: str = "inferred_spikes"
    group_assignment: np.ndarray | None = None
    d_qi: np.ndarray | None = None
    chirp_qi: np.ndarray | None = None
    confidence: np.ndarray | None = None
    pause_before: dict[int, float] = field(default_factory=dict)  # clip -> seconds the screen rested before it

    @property
    def n_cells(self) -> int:
        return self.answers.shape[1]

    def triggers(self):
        """Start of every clip in seconds; the triggers jitter by less than a millisecond."""
        n_clips = len(self.answers) // self.clip_length
        rest = np.cumsum([self.pause_before.get(clip, 0.0) for clip in range(n_clips)])
        jitter = np.random.default_rng(7).uniform(0, 5e-4, n_clips)
        return 12.345 + np.arange(n_clips) * self.clip_length * FRAME_S + rest + jitter

    def traces(self):
        """Return samples and their times, both (neuron, sample)."""
        starts = self.triggers()
        shown_at = (starts[:, None] + np.arange(self.clip_length) * FRAME_S).reshape(-1)
        if self.scan_hz is None:
            return self.answers.T, np.broadcast_to(shown_at, (self.n_cells, len(shown_at)))
        n_samples = int((shown_at[-1] - shown_at[0] + 20) * self.scan_hz)
        later = np.linspace(0, 1 / self.scan_hz, self.n_cells, endpoint=False)
        times = shown_at[0] - 8 + later[:, None] + np.arange(n_samples) / self.scan_hz
        on_screen = np.searchsorted(shown_at - FRAME_S / 2, times, side="right") - 1  # the frame nearest in time
        answers = np.concatenate([self.answers, np.zeros((1, self.n_cells))])  # before the first frame: the last row, 0
        return answers[on_screen, np.arange(self.n_cells)[:, None]], times


def write_fields(folder: Path, fields: dict[str, Field], name=RESPONSES) -> Path:
    """Write the response file with one group per session at its published place below a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for session, one in fields.items():
            _write_field(file.create_group(session), one)
    return path


def _write_field(group: h5py.Group, one: Field) -> None:
    values, times = one.traces()
    group[f"natural_{one.name_of_spikes}"] = values
    group["natural_raw_traces"] = values + 3.0
    group["natural_smoothed_traces"] = np.full(values.shape, 3.0)
    group["natural_preprocessed_traces"] = values * 2.0
    if one.times_as == "traces_times":
        group["natural_traces_times"] = times
    else:
        group["natural_traces_t0"] = times[:, :1]
        group["natural_traces_dt"] = np.diff(times[:, :2], axis=1)
    group["natural_trigger_times"] = np.tile(one.triggers(), (one.n_cells, 1))
    _write_labels(group, one)


def _write_labels(group: h5py.Group, one: Field) -> None:
    n = one.n_cells
    group["group_assignment"] = np.arange(n) % 32 + 1 if one.group_assignment is None else one.group_assignment
    group["d_qi"] = np.full(n, 0.9) if one.d_qi is None else one.d_qi
    group["chirp_qi"] = np.full(n, 0.9) if one.chirp_qi is None else one.chirp_qi
    best = np.full(n, 0.8) if one.confidence is None else one.confidence
    confidences = np.tile(best[:, None] / 3, (1, N_GROUPS))
    confidences[np.arange(n), np.arange(n) % N_GROUPS] = best
    group["group_confidences"] = confidences
    group["roi_ids"] = np.arange(n) * 2 + 3  # ids need not be consecutive
    group["roi_mask"] = roi_mask(group["roi_ids"][()])
    group.attrs.update(date="20200226", exp_num=1, experimenter="anonymous", field_id="GCL0", stim_id=5)
    if one.eye is not None:
        group.attrs["eye"] = one.eye
    if one.sequence is not None:
        group.attrs["scan_sequence_idx"] = one.sequence


def roi_mask(roi_ids):
    """Return a scan of 64 x 64 pixels, background 1 and -id in each ROI: bars of one row and two columns."""
    mask = np.ones((64, 64), np.int32)
    for index, roi_id in enumerate(roi_ids[: 64 * 20]):
        row, column = index % 64, 3 * (index // 64)
        mask[row, column : column + 2] = -roi_id
    return mask


def write_other(folder: Path, session: str, prefix: str, answers, triggers, times) -> None:
    """Add traces (sample, neuron) recorded under another stimulus, `chirp` or `mb`, to a session."""
    with h5py.File(folder / RESPONSES, "a") as file:
        group = file[session]
        group[f"{prefix}_inferred_spikes"] = answers.T
        group[f"{prefix}_traces_times"] = np.tile(times, (answers.shape[1], 1))
        group[f"{prefix}_trigger_times"] = np.tile(triggers, (answers.shape[1], 1))
