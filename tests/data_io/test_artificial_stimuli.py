"""Stimuli show what their parameters say: grey, contrast, frequency, direction of motion, place and time."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coread.data_io.artificial_stimuli import (
    channel_contrast_grid,
    chirp_course,
    chirp_segments,
    generate_annuli,
    generate_chirp,
    generate_flashes,
    generate_gratings,
    generate_moving_bar,
    generate_natural_patches,
    generate_noise_stimulus,
    generate_spots,
    parameter_grid,
)

SHAPE = (1, 1, 60, 24, 32)
quick = settings(max_examples=25, deadline=None)


def peak_frequency(course: np.ndarray, rate: float) -> float:
    """Return the frequency of the largest component, refined by zero padding."""
    padded = 64 * len(course)
    power = np.abs(np.fft.rfft(course - course.mean(), padded))
    return float(np.fft.rfftfreq(padded, 1 / rate)[power.argmax()])


@quick
@given(
    hz=st.floats(1.0, 12.0),
    cycles=st.floats(0.08, 0.4),
    direction=st.floats(0, 359),
    contrast=st.floats(0.05, 1.0),
)
def test_drifting_gratings_have_their_frequencies_contrast_and_mean(
    hz: float, cycles: float, direction: float, contrast: float
) -> None:
    shown = generate_gratings((1, 2, 90, 24, 32), hz, cycles, direction, contrast).numpy()
    assert shown.shape == (1, 2, 90, 24, 32)
    assert shown.dtype == np.float32
    assert np.abs(shown).max() <= contrast + 1e-6
    course = shown[0, 0, :, 12, 16]
    assert peak_frequency(course, 30.0) == pytest.approx(hz, rel=0.05, abs=0.15)
    assert course.max() > 0.7 * contrast
    # RMS of a sine over many cycles in space and time
    assert shown.std() == pytest.approx(contrast / np.sqrt(2), rel=0.15)
    np.testing.assert_array_equal(shown[:, 0], shown[:, 1])


@pytest.mark.parametrize("axis", ["right", "up"])
def test_spatial_frequency_is_in_cycles_per_unit_of_the_pixel_size(axis: str) -> None:
    direction = {"right": 0.0, "up": 90.0}[axis]
    shown = generate_gratings((1, 1, 2, 64, 64), 1.0, 0.003, direction, pixel_size=50.0)[0, 0, 0].numpy()
    profile = shown[10] if axis == "right" else shown[:, 10]
    assert peak_frequency(profile, 1 / 50.0) == pytest.approx(0.003, rel=0.02)
    across = shown[:, 10] if axis == "right" else shown[10]
    np.testing.assert_allclose(across, across[0], atol=1e-6)


@quick
@given(direction=st.sampled_from([0, 45, 90, 135, 180, 225, 270, 315]), bar=st.booleans())
def test_motion_goes_where_the_direction_says(direction: int, bar: bool) -> None:
    make: Callable[..., torch.Tensor] = generate_moving_bar if bar else generate_gratings
    options: dict[str, Any] = {"speed": 20.0, "width": 5.0} if bar else {"spatial_frequency": 0.06}
    shown = make((1, 1, 30, 32, 32), direction=direction, **options)[0, 0].numpy()
    angle = np.deg2rad(direction)
    step = {sign: (-sign * round(np.sin(angle)), sign * round(np.cos(angle))) for sign in (1, -1)}
    # the next frame looks more like this one moved ahead than moved back; away from the borders
    inner = np.s_[6:-6, 6:-6]
    likeness = {
        sign: sum(
            float((np.roll(frame, shift, axis=(0, 1))[inner] * following[inner]).sum())
            for frame, following in pairwise(shown[10:21])
        )
        for sign, shift in step.items()
    }
    assert likeness[1] > likeness[-1]


def test_a_grating_starts_at_its_phase_in_the_middle_of_the_screen() -> None:
    shown = generate_gratings((3, 1, 1, 25, 25), spatial_frequency=0.1, phase=[0, 90, 180])
    np.testing.assert_allclose(shown[:, 0, 0, 12, 12], [1, 0, -1], atol=1e-6)


def test_static_and_counterphase_gratings() -> None:
    static = generate_gratings(SHAPE, 5.0, 0.1, mode="static")
    assert bool((static == static[:, :, :1]).all())
    flicker = generate_gratings(SHAPE, 5.0, 0.1, mode="counterphase").numpy()[0, 0]
    # separable, and without motion: space times a cosine in time
    np.testing.assert_allclose(
        flicker, flicker[:1] * np.cos(2 * np.pi * 5 * np.arange(60) / 30)[:, None, None], atol=1e-6
    )


def test_square_waves_are_averaged_over_pixels() -> None:
    shown = generate_gratings((1, 1, 1, 4, 4000), 0.0, 0.013, waveform="square")[0, 0, 0, 0].numpy()
    partial = np.abs(shown) < 1 - 1e-9
    assert 0 < partial.mean() < 3 * 0.013
    assert np.abs(shown).max() <= 1 + 1e-6
    assert abs(shown.mean()) < 2e-3
    spectrum = np.abs(np.fft.rfft(shown))
    assert spectrum[3 * 52] / spectrum[52] == pytest.approx(1 / 3, rel=0.02)


def test_apertures_leave_grey_around_and_lie_where_they_should() -> None:
    shown = generate_gratings((1, 1, 1, 41, 41), 0.0, 0.2, diameter=10.0, center=(8.0, -5.0), mode="static")[
        0, 0, 0
    ].numpy()
    y, x = np.nonzero(shown)
    assert np.hypot(y - 12, x - 15).max() < 5.6  # 8 above and 5 left of the middle (20, 20)
    assert len(y) > 60


def test_one_call_makes_a_grid_of_parameters() -> None:
    grid = parameter_grid(direction=[0, 90], hz=[1.0, 2.0, 3.0])
    assert grid["direction"].tolist() == [0, 0, 0, 90, 90, 90]
    assert grid["hz"].tolist() == [1, 2, 3, 1, 2, 3]
    together = generate_gratings(SHAPE, grid["hz"], 0.1, grid["direction"], contrast=np.linspace(0.1, 0.6, 6))
    assert together.shape == (6, *SHAPE[1:])
    alone = generate_gratings(SHAPE, 2.0, 0.1, 90.0, contrast=0.5)
    torch.testing.assert_close(together[4:5], alone)
    with pytest.raises(ValueError, match="as many as the batch, found"):
        generate_gratings((4, *SHAPE[1:]), grid["hz"], 0.1)


def test_the_documented_call_works_for_all_its_frequencies() -> None:
    for parameter in np.linspace(0.5, 10, 20):
        shown = generate_gratings(shape=(1, 2, 30, 18, 16), temporal_frequency=parameter)
        assert shown.shape == (1, 2, 30, 18, 16)
        assert float(shown.std()) > 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generate_gratings(SHAPE, 15.0), "temporal_frequency .* below 15, found 15"),
        (lambda: generate_gratings(SHAPE, 1.0, 0.6), "spatial_frequency .* below 0.5, found 0.6"),
        (lambda: generate_gratings(SHAPE, 1.0, 0.02, pixel_size=30.0), "below 0.0166667, found 0.02"),
        (lambda: generate_gratings(SHAPE, contrast=1.2), "contrasts are -1"),
        (lambda: generate_gratings(SHAPE, contrast=[[1.0, 0.5]]), "with 1 channels"),
        (lambda: generate_gratings((1, 1, 10, 8)), "a stimulus has the shape"),
        (lambda: generate_gratings(SHAPE, mode="still"), "mode is one of"),
        (lambda: generate_moving_bar(SHAPE, speed=200.0, width=3.0), "jumps over pixels"),
        (lambda: generate_moving_bar(SHAPE, width=50.0), "wider than the screen"),
        (lambda: generate_moving_bar(SHAPE, width=0.0), "width of a bar must be above 0"),
        (lambda: generate_spots(SHAPE, 0.5), "at least a pixel"),
        (lambda: generate_spots(SHAPE, 5.0, onset_s=1.5, duration_s=1.0), "not inside the 60 frames"),
        (lambda: generate_annuli(SHAPE, 6.0, 4.0), "above inner_diameter"),
        (lambda: generate_noise_stimulus(SHAPE, check_size=1.5), "check_size, in pixels, must be a whole number"),
        (lambda: generate_noise_stimulus(SHAPE, update_hz=8.0), "divided by update_hz must be a whole number"),
        (lambda: generate_noise_stimulus(SHAPE, kind="pink"), "kind is one of"),
        (lambda: generate_chirp(SHAPE), "has 990 frames, found a stimulus of 60"),
        (lambda: chirp_course(15.0), "below 7.5, found 8"),
        (lambda: generate_natural_patches((1, 1, 1, 300, 300)), "photograph_px must be at least"),
    ],
)
def test_what_cannot_be_shown_is_an_error(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@quick
@given(width=st.floats(0.3, 6.0), direction=st.sampled_from([0.0, 90.0, 180.0, 270.0]))
def test_bars_cover_as_many_pixels_as_they_are_wide(width: float, direction: float) -> None:
    shown = generate_moving_bar((1, 1, 41, 21, 21), direction, 7.0, width, rate_hz=30.0)[0, 0].numpy()
    np.testing.assert_allclose(shown[20].sum(), 21 * width, rtol=1e-5)  # half-way through it is in the middle
    profile = shown.sum(axis=1 if direction in (0.0, 180.0) else 2) / 21
    place = (profile * np.arange(21)).sum(axis=1) / profile.sum(axis=1)
    # a second's way is a whole number of pixels, so that pixels are covered alike
    assert place[35] - place[5] == pytest.approx(7.0 * (1 if direction in (0.0, 270.0) else -1), abs=1e-4)


def test_a_bar_without_a_speed_crosses_the_whole_screen() -> None:
    shown = generate_moving_bar((8, 1, 40, 16, 20), np.arange(0, 360, 45))
    assert bool((shown[:, 0, 0] == 0).all())
    assert bool((shown[:, 0, -1] == 0).all())
    assert bool((shown.amax(dim=(1, 2)) > 0.9).all()), "every pixel sees every bar"


def test_spots_and_annuli_have_their_area_place_and_time() -> None:
    diameters = np.array([1.0, 2.0, 5.0, 9.0])
    shown = generate_spots((1, 1, 30, 33, 33), diameters, contrast=-0.5, onset_s=0.2, duration_s=0.5)[:, 0].numpy()
    np.testing.assert_allclose(shown[2:, 10].sum(axis=(1, 2)), -0.5 * np.pi * diameters[2:] ** 2 / 4, rtol=0.05)
    on = (shown != 0).any(axis=(2, 3))
    assert (on == on[0]).all()
    assert np.flatnonzero(on[0]).tolist() == list(range(6, 21))
    ring = generate_annuli((1, 1, 1, 33, 33), 6.0, 12.0, center=(4.0, 2.0))[0, 0, 0]
    whole = generate_spots((1, 1, 1, 33, 33), 12.0, center=(4.0, 2.0))[0, 0, 0]
    hole = generate_spots((1, 1, 1, 33, 33), 6.0, center=(4.0, 2.0))[0, 0, 0]
    torch.testing.assert_close(ring + hole, whole)
    y, x = np.nonzero(whole.numpy())
    assert (y.mean(), x.mean()) == pytest.approx((16 - 4.0, 16 + 2.0))


def test_flashes_of_every_pair_of_channel_contrasts() -> None:
    pairs = channel_contrast_grid([-1.0, 0.0, 0.5], [-1.0, 1.0])
    assert pairs.tolist() == [[-1, -1], [-1, 1], [0, -1], [0, 1], [0.5, -1], [0.5, 1]]
    shown = generate_flashes((1, 2, 10, 3, 4), pairs, onset_s=0.1, duration_s=0.1)
    assert bool((shown[:, :, :3] == 0).all())
    assert bool((shown[:, :, 6:] == 0).all())
    torch.testing.assert_close(shown[:, :, 4, 1, 2].double(), pairs)


def test_the_chirp_has_its_segments_and_frequencies() -> None:
    rate = 120.0
    course = chirp_course(rate).numpy()
    assert len(course) == round(33 * rate)
    segments = {part.name: course[part.first : part.stop] for part in chirp_segments(rate)}
    lengths = {name: len(values) / rate for name, values in segments.items()}
    assert list(lengths.values()) == [2, 3, 3, 2, 8, 2, 8, 2, 3]
    assert (segments["bright"] == 1).all()
    assert (segments["dark"] == -1).all()
    assert (segments["grey"] == 0).all()
    ramp = segments["frequency"]
    # zero crossings upwards happen where K t^2 / 2 is a whole number of cycles: after 8 s there were 32
    assert ((ramp[:-1] < 0) & (ramp[1:] >= 0)).sum() == 31
    late = ramp[int(7 * rate) :]
    assert peak_frequency(late, rate) == pytest.approx(7.5, abs=0.4)
    contrast = segments["contrast"]
    assert peak_frequency(contrast, rate) == pytest.approx(2.0, abs=0.05)
    assert np.abs(contrast[: int(rate)]).max() < 0.13
    assert np.abs(contrast[-int(rate) :]).max() > 0.9
    shown = generate_chirp((2, 1, 990, 2, 3), contrast=[1.0, 0.3])
    torch.testing.assert_close(shown[1], 0.3 * shown[0])


@quick
@given(
    kind=st.sampled_from(["dense", "sparse", "spatial", "temporal"]),
    distribution=st.sampled_from(["binary", "gaussian"]),
    contrast=st.floats(0.1, 0.3),
    seed=st.integers(0, 10**6),
)
def test_noise_has_grey_mean_its_contrast_and_its_seed(
    kind: str, distribution: str, contrast: float, seed: int
) -> None:
    shape = (40, 2, 30, 12, 16)
    shown = generate_noise_stimulus(shape, kind, distribution, contrast, density=0.2, seed=seed)
    assert shown.shape == shape
    torch.testing.assert_close(
        shown, generate_noise_stimulus(shape, kind, distribution, contrast, density=0.2, seed=seed)
    )
    visible = shown[shown != 0]
    n_values = {"dense": 460800, "sparse": 92160, "spatial": 15360, "temporal": 2400}[kind]
    assert float(visible.square().mean().sqrt()) == pytest.approx(contrast, rel=5 / np.sqrt(n_values) + 1e-3)
    assert abs(float(shown.mean())) < 5 * contrast / np.sqrt(n_values)
    if kind == "sparse":
        assert float((shown != 0).float().mean()) == pytest.approx(0.2, rel=0.05)
    if kind == "spatial":
        assert bool((shown == shown[:, :, :1]).all())
    if kind == "temporal":
        assert bool((shown == shown[..., :1, :1]).all())
    if kind in ("dense", "temporal"):
        neighbours = (shown[:, :, 1:] * shown[:, :, :-1]).mean() / contrast**2
        assert abs(float(neighbours)) < 5 / np.sqrt(n_values)


def test_noise_comes_in_checks_and_updates() -> None:
    shown = generate_noise_stimulus(
        (1, 2, 10, 7, 9), check_size=90.0, pixel_size=30.0, update_hz=10.0, independent_channels=False
    )[0]
    torch.testing.assert_close(shown[0], shown[1])
    corner = shown[0, :, :3, :3]
    assert bool((corner == corner[:, :1, :1]).all())
    assert bool((shown[0, 3:6] == shown[0, 3:4]).all())
    assert not bool((shown[0, 2] == shown[0, 3]).all())


def test_natural_patches_have_grey_mean_and_their_contrast() -> None:
    shown = generate_natural_patches((6, 2, 3, 20, 24), 0.25, seed=4)
    assert bool((shown == shown[:, :1, :1]).all())
    assert bool((shown.abs() <= 1).all())
    patches = shown[:, 0, 0].numpy()
    assert np.abs(patches.mean(axis=(1, 2))).max() < 0.03
    np.testing.assert_allclose(patches.std(axis=(1, 2)), 0.25, rtol=0.1)
    # neighbouring pixels of a photograph are alike
    assert np.mean([np.corrcoef(p[:, 1:].ravel(), p[:, :-1].ravel())[0, 1] for p in patches]) > 0.3
    torch.testing.assert_close(shown, generate_natural_patches((6, 2, 3, 20, 24), 0.25, seed=4))
    assert not torch.equal(shown, generate_natural_patches((6, 2, 3, 20, 24), 0.25, seed=5))
