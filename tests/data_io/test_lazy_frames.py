"""Frames made on demand answer like an array."""

import numpy as np
import pytest

from coread.data_io.lazy_frames import LazyFrames

FRAMES = np.random.default_rng(0).integers(0, 256, (50, 2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    "key",
    [3, -1, slice(None), slice(5, 20), slice(40, 3, -4), slice(60, 70), np.array([7, 3, 3]),
     np.array([[1, 2], [49, 0]]), np.arange(50) % 7 == 0, (slice(2, 9), 0), (4, 1), (np.array([2, 5]), 1)],
)  # fmt: skip
def test_rows_are_those_of_the_array(key):
    lazy = LazyFrames(FRAMES.shape, FRAMES.dtype, lambda rows: FRAMES[rows])
    expected = (
        FRAMES[key] if not isinstance(key, tuple) or not isinstance(key[0], np.ndarray) else FRAMES[key[0]][:, key[1]]
    )
    assert np.array_equal(lazy[key], expected)
    assert lazy[key].dtype == expected.dtype


def test_all_frames_are_asked_for_in_bounded_pieces_and_in_order(monkeypatch):
    monkeypatch.setattr("coread.data_io.lazy_frames.CHUNK_BYTES", 20 * FRAMES[0].nbytes)
    asked = []

    def read(rows):
        asked.append(rows)
        return FRAMES[rows]

    lazy = LazyFrames(FRAMES.shape, FRAMES.dtype, read)
    assert (np.asarray(lazy) == FRAMES).all()
    assert [len(rows) for rows in asked] == [20, 20, 10]
    assert (np.concatenate(asked) == np.arange(50)).all()
    assert (lazy.ndim, len(lazy), lazy.size, lazy.nbytes) == (4, 50, FRAMES.size, FRAMES.nbytes)


def test_a_reader_that_breaks_its_promise_is_named():
    lazy = LazyFrames(FRAMES.shape, np.int8, lambda rows: FRAMES[rows])
    with pytest.raises(ValueError, match=r"promised frames \(2, 2, 3, 4\) of int8, it gave \(2, 2, 3, 4\) of uint8"):
        lazy[3:5]
    with pytest.raises(IndexError):
        lazy[50]
