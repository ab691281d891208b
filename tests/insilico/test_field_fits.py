"""Functions fitted to many receptive fields at once."""

import numpy as np
import pytest

from coread.insilico.field_fits import (
    best_description,
    evaluate_dog,
    evaluate_gabor,
    fit_fields,
    gabor_frequency,
    gabor_orientation,
    surround_ratio,
)
from coread.insilico.gaussian_fit import evaluate_gaussian, pixel_grid

HEIGHT, WIDTH = 20, 22
GRID = pixel_grid(HEIGHT, WIDTH)
# amplitude, y, x, p, q, r of a Gaussian exp(-|M d|^2 / 2) with M = [[e^p, q], [0, e^r]]
GAUSSIAN = np.array([[1.0, 8.3, 10.6, -0.7, 0.1, -0.4], [2.0, 10.1, 9.2, -0.5, -0.05, -0.6]])
DOG = np.hstack([GAUSSIAN, [[0.25, 0.0], [0.4, -0.3]]])
GABOR = np.hstack([GAUSSIAN * [1, 1, 1, 1.3, 0, 1.8], [[0.1, 0.12, 0.3], [-0.15, 0.05, -0.6]]])


def images(parameters: np.ndarray, evaluate: object, noise: float, n_copies: int, seed: int = 0) -> np.ndarray:
    flat = np.repeat(evaluate(parameters, GRID)[0], n_copies, axis=0)  # type: ignore[operator]
    noisy = flat + noise * np.random.default_rng(seed).standard_normal(flat.shape)
    return noisy.reshape(-1, HEIGHT, WIDTH)


def peaks(many: np.ndarray) -> np.ndarray:
    flat = many.reshape(len(many), -1).argmax(axis=1)
    return np.stack(np.unravel_index(flat, many.shape[1:]), axis=1).astype(float)


@pytest.mark.parametrize(
    ("evaluate", "parameters"), [(evaluate_gaussian, GAUSSIAN), (evaluate_dog, DOG), (evaluate_gabor, GABOR)]
)
def test_derivatives_are_those_of_the_values(evaluate: object, parameters: np.ndarray) -> None:
    _, jacobian = evaluate(parameters, GRID)  # type: ignore[operator]
    step = 1e-5 * np.eye(parameters.shape[1])
    for row, own in enumerate(parameters):
        above, below = (evaluate(own + sign * step, GRID)[0] for sign in (1, -1))  # type: ignore[operator]
        np.testing.assert_allclose(jacobian[row], (above - below) / 2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "evaluate", "parameters"),
    [("gaussian", evaluate_gaussian, GAUSSIAN), ("dog", evaluate_dog, DOG), ("gabor", evaluate_gabor, GABOR)],
)
def test_the_true_function_describes_a_field_best(name: str, evaluate: object, parameters: np.ndarray) -> None:
    many = images(parameters, evaluate, 0.02, 20)
    fits = fit_fields(many, peaks(many))
    assert (best_description(fits) == name).mean() > 0.85
    assert (fits[name].r2 > 0.9).all()
    assert fits[name].sensible.all()


def test_standard_errors_are_the_spread_of_estimates() -> None:
    many = images(GAUSSIAN[:1], evaluate_gaussian, 0.1, 100)
    fit = fit_fields(many, peaks(many))["gaussian"]
    np.testing.assert_allclose(fit.center_px.mean(axis=0), GAUSSIAN[0, 1:3], atol=0.03)
    np.testing.assert_allclose(fit.center_se_px.mean(axis=0), fit.center_px.std(axis=0), rtol=0.25)
    np.testing.assert_allclose(fit.sigma_se_px.mean(), fit.sigma_px.std(), rtol=0.25)
    np.testing.assert_allclose(fit.errors[:, 0].mean(), fit.parameters[:, 0].std(), rtol=0.25)


def test_errors_scale_with_the_image() -> None:
    many = images(GAUSSIAN[:1], evaluate_gaussian, 0.1, 3)
    one, ten = (fit_fields(values, peaks(values))["gaussian"] for values in (many, 10 * many))
    np.testing.assert_allclose(ten.parameters[:, 0], 10 * one.parameters[:, 0], rtol=1e-4)
    np.testing.assert_allclose(ten.errors[:, 0], 10 * one.errors[:, 0], rtol=1e-3)
    np.testing.assert_allclose(ten.center_se_px, one.center_se_px, rtol=1e-3)
    np.testing.assert_allclose(ten.r2, one.r2, rtol=1e-6)


def test_a_gabor_function_has_its_frequency_and_orientation_back() -> None:
    many = images(GABOR, evaluate_gabor, 0.05, 100)
    fit = fit_fields(many, peaks(many))["gabor"]
    frequency, frequency_se = gabor_frequency(fit)
    orientation, orientation_se = gabor_orientation(fit)
    true_frequency = np.repeat(np.hypot(GABOR[:, 6], GABOR[:, 7]), 100)
    true_orientation = np.repeat((np.rad2deg(np.arctan2(-GABOR[:, 6], GABOR[:, 7])) + 90) % 180, 100)
    np.testing.assert_allclose(frequency, true_frequency, rtol=0.2)
    assert np.abs(orientation - true_orientation).max() < 10
    for values, errors in ((frequency, frequency_se), (orientation, orientation_se)):
        for rows in (slice(0, 100), slice(100, 200)):
            np.testing.assert_allclose(errors[rows].mean(), values[rows].std(), rtol=0.3)


def test_orientation_of_stripes_is_counted_from_horizontal_upwards() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH] - np.array([9.0, 10.0])[:, None, None]
    envelope = np.exp(-(y**2 + x**2) / 18)
    upright, flat = np.cos(2 * np.pi * 0.15 * x), np.cos(2 * np.pi * 0.15 * y)
    rising = np.cos(2 * np.pi * 0.15 * (y + x) / np.sqrt(2))  # stripes of equal y + x: from lower left to upper right
    many = np.stack([envelope * wave for wave in (upright, flat, rising)])
    orientation, _ = gabor_orientation(fit_fields(many, peaks(many))["gabor"])
    np.testing.assert_allclose(orientation[0], 90, atol=1)
    assert min(orientation[1], 180 - orientation[1]) < 1
    np.testing.assert_allclose(orientation[2], 45, atol=1)


def test_a_difference_of_gaussians_has_its_surround_back() -> None:
    many = images(DOG, evaluate_dog, 0.005, 1)
    fit = fit_fields(many, peaks(many))["dog"]
    np.testing.assert_allclose(surround_ratio(fit.parameters), surround_ratio(DOG), rtol=0.1)
    np.testing.assert_allclose(fit.parameters[:, 6], DOG[:, 6], rtol=0.2)


def test_empty_images_are_described_by_nothing() -> None:
    many = np.zeros((2, HEIGHT, WIDTH))
    fits = fit_fields(many, np.full((2, 2), 5.0))
    assert (best_description(fits) == "none").all()
    assert fit_fields(many[:0], np.zeros((0, 2)))["gabor"].r2.shape == (0,)
