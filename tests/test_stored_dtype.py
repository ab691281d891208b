"""Stimuli are stored in the smallest type that gives back every published float32 value, to the bit."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coread.stored_dtype import line_through, smallest_exact


def bits(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # zero has two signs


def given_back(stored: np.ndarray, scale: float, offset: float) -> np.ndarray:
    return (stored * scale + offset).astype(np.float32)


def movie(levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return frames in which every level is shown, most of them often."""
    drawn = np.concatenate([levels, rng.choice(levels, 3 * len(levels) + 40)])
    rng.shuffle(drawn)
    return drawn[: len(drawn) // 4 * 4].reshape(-1, 1, 2, 2)


@settings(deadline=None, max_examples=60)
@given(
    mean=st.floats(0.0, 255.0),
    std=st.floats(1e-3, 300.0),
    first=st.integers(0, 120),
    n_levels=st.integers(3, 136),
    seed=st.integers(0, 2**32 - 1),
)
def test_z_scored_grey_levels_take_a_byte(mean, std, first, n_levels, seed):
    grey = movie(np.arange(first, first + n_levels), np.random.default_rng(seed))
    published = ((grey - mean) / std).astype(np.float32)
    assume((published != np.rint(published)).any())  # whole numbers are stored as they are
    # so near to zero float64, in which stored values are scaled, has not the digits of a float32
    assume(not ((published != 0) & (np.abs(published) < 1e-5)).any())
    stored, scale, offset = smallest_exact(published)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(bits(given_back(stored, scale, offset)), bits(published))
    assert np.ptp(stored) == n_levels - 1


@settings(deadline=None, max_examples=15)
@given(mean=st.floats(0.0, 255.0), std=st.floats(1.0, 100.0), parts=st.sampled_from([2, 16, 256]))
def test_z_scored_means_of_grey_levels_take_two_bytes(mean, std, parts):
    grey = movie(np.arange(255 * parts + 1), np.random.default_rng(0)) / parts
    published = ((grey - mean) / std).astype(np.float32)
    assume(len(np.unique(published)) > 256 and not ((published != 0) & (np.abs(published) < 1e-5)).any())
    stored, scale, offset = smallest_exact(published)
    assert (stored.dtype, scale) == (np.uint16, pytest.approx(1 / parts / std, rel=1e-6))
    np.testing.assert_array_equal(bits(given_back(stored, scale, offset)), bits(published))


@pytest.mark.parametrize("level", [0, 17, 128, 255])
@pytest.mark.parametrize("direction", [-np.inf, np.inf])
def test_a_level_that_no_line_gives_back_keeps_float32(level, direction):
    published = ((movie(np.arange(256), np.random.default_rng(0)) - 36.979) / 36.985).astype(np.float32)
    value = published.ravel()[np.flatnonzero(published == np.float32((level - 36.979) / 36.985))[0]]
    moved = value
    for _ in range(8):
        moved = np.nextafter(moved, np.float32(direction))
    # eight neighbours on: beyond what slope and offset can make up for between the other levels
    frames = np.where(published == value, moved, published)
    stored, scale, offset = smallest_exact(frames)
    assert (stored.dtype, scale, offset) == (np.float32, 1.0, 0.0)
    np.testing.assert_array_equal(bits(stored), bits(frames))


def test_a_single_pixel_off_the_grid_keeps_float32():
    published = ((movie(np.arange(256), np.random.default_rng(0)) - 36.979) / 36.985).astype(np.float32)
    published[-1, 0, 1, 1] = np.nextafter(published[-1, 0, 1, 1], np.float32(np.inf))
    stored, _, _ = smallest_exact(published)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(bits(stored), bits(published))


@settings(deadline=None, max_examples=100)
@given(
    scale=st.floats(1e-6, 1e3),
    offset=st.floats(-1e3, 1e3),
    levels=st.lists(st.integers(0, 65535), min_size=2, max_size=300, unique=True).map(sorted),
)
def test_a_line_is_found_wherever_there_is_one(scale, offset, levels):
    levels = np.array(levels)
    values = (levels * scale + offset).astype(np.float32)
    found = line_through(levels, values)
    np.testing.assert_array_equal(bits((levels * found[0] + found[1]).astype(np.float32)), bits(values))
