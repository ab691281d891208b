from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.errors import InstantiationException

from coread.insilico.flashed_images import flash_natural_images
from coread.insilico.local_linearity import LocalLinearity, linear_r2, smooth_noise
from coread.insilico.running import load_experiment
from tests.conftest import REPOSITORY
from tests.insilico.subunit_models import SubunitCells, linear, population, rectified, softplus, squared

LAG, HEIGHT, WIDTH = 3, 7, 8
CONTRASTS = [0.01, 0.1, 0.3]
FILTERS = 0.15 * np.random.default_rng(0).standard_normal((3, 2, LAG + 1, 1, HEIGHT, WIDTH))


def settings(**changed: Any) -> dict[str, Any]:
    node = yaml.safe_load((REPOSITORY / "configs/insilico/local_linearity.yaml").read_text())
    images = node["images"] | {"n_images": 6, "image_s": 0.2, "window_s": [0.0, 0.2]}
    return node | {"images": images, "n_perturbations": 4, "perturbation_contrasts": CONTRASTS} | changed


def run(*models: SubunitCells, **changed: Any):
    experiment = load_experiment(settings(**changed))
    return experiment, experiment.run(population(*models), np.arange(3))


def test_gradients_predict_a_linear_cell_at_all_contrasts() -> None:
    _, result = run(SubunitCells(FILTERS, linear))
    np.testing.assert_allclose(result.arrays["linear_r2"].data, 1, atol=1e-4)
    np.testing.assert_allclose(result.table["linear_range_contrast"], CONTRASTS[-1])


def test_of_a_squaring_cell_they_miss_the_square_of_the_change() -> None:
    model = SubunitCells(FILTERS[:, :1], squared)
    experiment, result = run(model)
    assert isinstance(experiment, LocalLinearity)
    pop = population(model)
    shown = flash_natural_images(pop, experiment.images)
    noise = smooth_noise((6, 4, 1, HEIGHT, WIDTH), experiment.sigma_px, experiment.seed)
    frames = np.zeros(shown.stimuli.shape[2])
    frames[shown.image_frames] = 1
    kernel = FILTERS[:, 0, :, 0].astype(np.float64)
    # drive of an image that is on for the given frames, at every bin of the window
    outputs = range(shown.window.start, shown.window.stop)
    weights = np.stack([sum(kernel[:, lag] * frames[out + LAG - lag] for lag in range(LAG + 1)) for out in outputs])
    images = 2 * shown.images.numpy()[:, 0].astype(np.float64)  # contrast 1 is 2 deviations
    at_image = np.einsum("onyx,iyx->oni", weights, images)
    for place, contrast in enumerate(CONTRASTS):
        change = np.einsum("onyx,ipyx->onip", weights, 2 * contrast * noise[:, :, 0].astype(np.float64))
        predicted = (2 * at_image[..., None] * change).sum(axis=0)
        missed = np.square(change).sum(axis=0)
        expected = 1 - np.square(missed).sum(axis=(1, 2)) / np.square(predicted + missed).sum(axis=(1, 2))
        np.testing.assert_allclose(result.arrays["linear_r2"].data[:, place], expected, rtol=2e-3, atol=2e-3)


def test_the_share_falls_with_contrast_and_more_so_with_sharper_subunits() -> None:
    _, smooth = run(SubunitCells(FILTERS, softplus))
    assert (smooth.table["linear_r2_smallest"] > 0.99).all()
    assert (np.diff(smooth.arrays["linear_r2"].data, axis=1) < 0).all()
    _, sharp = run(SubunitCells(FILTERS, rectified))
    assert (sharp.table["linear_r2_largest"] < smooth.table["linear_r2_largest"]).all()


def test_the_ensemble_and_the_spread_over_its_members() -> None:
    models = SubunitCells(FILTERS, softplus), SubunitCells(2 * FILTERS, softplus)
    _, result = run(*models)
    alone = [run(model)[1].arrays["linear_r2"].data for model in models]
    members = result.arrays["linear_r2_members"].data
    np.testing.assert_allclose(members, np.stack(alone, axis=1), rtol=1e-4, atol=1e-4)
    spread = np.std([each[:, -1] for each in alone], axis=0, ddof=1)
    np.testing.assert_allclose(result.table["linear_r2_largest_sd_members"], spread, rtol=1e-2, atol=1e-4)


def test_measure_range_figure_and_settings(tmp_path: Path) -> None:
    actual = np.ones((1, 2, 2, 3)) * np.array([1.0, 2.0, 0.0])
    predicted = np.ones((1, 2, 2, 3)) * np.array([0.5, 2.0, 1.0])
    np.testing.assert_allclose(linear_r2(actual, predicted)[:, 0], [0.75, 1, np.nan])
    experiment, result = run(SubunitCells(FILTERS, rectified))
    drawing = experiment.draw({"a": result})["local_linearity"]
    drawing.figure.savefig(tmp_path / "figure.png")
    assert "3 model neurons" in drawing.caption
    assert isinstance(experiment, LocalLinearity)
    r2 = np.array([[0.99, 0.95, 0.5], [0.8, 0.95, 0.95], [np.nan] * 3])
    np.testing.assert_array_equal(experiment._linear_range(r2), [CONTRASTS[1], 0, np.nan])
    with pytest.raises(InstantiationException, match="positive and rising"):
        load_experiment(settings(perturbation_contrasts=[0.3, 0.1]))
