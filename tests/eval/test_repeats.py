import numpy as np
import pandas as pd

from coread.eval.repeats import ABSENT, align_repeats, gather_repeats
from coread.recording import Recording, Stimulus


def make_recording(shown: list[tuple[str, int, list[int]]]) -> Recording:
    """Trials given as (stimulus, repeat, frames), presented in this order."""
    names = sorted({name for name, _, _ in shown})
    trials = pd.DataFrame(
        {
            "stimulus": [name for name, _, _ in shown],
            "tier": "test",
            "repeat": [repeat for _, repeat, _ in shown],
            "time_order": range(len(shown)),
            "withheld": False,
        }
    )
    trial = np.repeat(np.arange(len(shown)), [len(frames) for *_, frames in shown]).astype(np.int32)
    return Recording(
        dataset="toy",
        session="a",
        stimuli={name: Stimulus(np.zeros((50, 1, 2, 2), np.uint8), 60.0) for name in names},
        trials=trials,
        trial=trial,
        frame=np.concatenate([frames for *_, frames in shown]).astype(np.int32),
        responses=np.arange(len(trial) * 2, dtype=np.float32).reshape(-1, 2),
        valid=np.ones(len(trial), bool),
        rate_hz=60.0,
        unit="spike count",
        neurons=pd.DataFrame({"unit_id": [0, 1]}),
    )


def test_interleaved_repeats_are_put_side_by_side() -> None:
    recording = make_recording([("a", 0, [0, 1, 2]), ("b", 0, [5, 6]), ("a", 1, [0, 1, 2]), ("b", 1, [5, 6])])
    tables = align_repeats(recording, np.ones(recording.n_bins, bool))
    assert tables["a"].tolist() == [[0, 5], [1, 6], [2, 7]]
    assert tables["b"].tolist() == [[3, 8], [4, 9]]


def test_a_short_trial_and_masked_bins_leave_gaps() -> None:
    recording = make_recording([("a", 0, [3, 4, 5]), ("a", 1, [3, 4]), ("a", 2, [3, 4, 5])])
    bins = np.ones(recording.n_bins, bool)
    bins[5] = False
    table = align_repeats(recording, bins)["a"]
    assert table.tolist() == [[0, 3, ABSENT], [1, 4, 6], [2, ABSENT, 7]]
    gathered = gather_repeats(recording.responses, table)
    assert np.isnan(gathered[0, 2]).all()
    assert gathered[1, :, 0].tolist() == [2.0, 8.0, 12.0]


def test_moments_are_the_same_only_if_everything_before_was_the_same() -> None:
    recording = make_recording([("a", 0, [1, 2, 3]), ("a", 0, [2, 1, 3]), ("a", 1, [2, 1, 3])])
    table = align_repeats(recording, recording.bin_in_trial() >= 1)["a"]
    assert table.tolist() == [[1, ABSENT], [2, ABSENT], [4, 7], [5, 8]], "frame 3 after 1 2 is not frame 3 after 2 1"


def test_images_shown_in_random_order_are_rows_and_repeated_numbers_are_ranked() -> None:
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(20) for _ in range(4)])
    recording = make_recording([("images", 0, [int(image)]) for image in order])
    table = align_repeats(recording, np.ones(recording.n_bins, bool))["images"]
    assert table.shape == (20, 4)
    assert (order[table] == order[table[:, :1]]).all()
    assert (np.diff(table, axis=1) > 0).all(), "repeats are in the order of presentation"
    assert sorted(table.reshape(-1).tolist()) == list(range(80))


def test_many_random_histories_never_collide() -> None:
    rng = np.random.default_rng(1)
    shown = [("a", 0, rng.integers(-1, 3, 12).tolist()) for _ in range(400)]
    recording = make_recording(shown)
    table = align_repeats(recording, np.ones(recording.n_bins, bool))["a"]
    distinct = {(tuple(frames[: length + 1])) for *_, frames in shown for length in range(12)}
    assert len(table) == len(distinct)
