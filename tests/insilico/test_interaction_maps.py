from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from torch import Tensor

from coread.insilico.additivity import after_output_interaction, before_output_interaction, isotonic
from coread.insilico.running import load_experiment
from tests.conftest import REPOSITORY
from tests.insilico.subunit_models import SubunitCells, course, gaussian, population, separable, softplus

LAG, HEIGHT, WIDTH = 4, 19, 21
CENTERS = np.array([(8.0, 10.0), (9.3, 9.0), (10.0, 11.6)])
POLARITY = np.array([1.0, -1.0, 1.0])
LEVELS = np.linspace(-1, 1, 7)
CENTER, SURROUND = LEVELS[:, None], LEVELS[None, :]


def parts() -> np.ndarray:
    """Return centre and surround of every cell: (neuron, part, height, width)."""
    images = [[gaussian(c, 1.3, HEIGHT, WIDTH), gaussian(c, 3.5, HEIGHT, WIDTH)] for c in CENTERS]
    return 2 * POLARITY[:, None, None, None] * np.array(images)


def difference_of_gaussians(drive: Tensor) -> Tensor:
    return torch.nn.functional.softplus(8 * (drive[:, :, 0] - drive[:, :, 1]))


def divided(drive: Tensor) -> Tensor:
    """Divide the centre by the surround's energy; the baseline keeps responses of both signs apart."""
    return 2 + drive[:, :, 0] / (1 + 4 * drive[:, :, 1].square())


def cells(law: Any) -> SubunitCells:
    return SubunitCells(separable(parts(), course(LAG + 1)), law)


def settings(**changed: Any) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "configs/insilico/centre_surround.yaml").read_text()) | changed


def run(*models: SubunitCells, **changed: Any):
    experiment = load_experiment(settings(**changed))
    return experiment, experiment.run(population(*models), np.arange(len(CENTERS)))


def indices(response: np.ndarray) -> tuple[float, float]:
    maps = np.broadcast_to(response, (7, 7))[None]
    return float(after_output_interaction(maps)[0]), float(before_output_interaction(maps)[0])


@pytest.mark.parametrize("name", ["softplus", "rectified", "squared after threshold", "saturating"])
def test_sums_before_an_output_nonlinearity_interact_only_after_it(name: str) -> None:
    drive = 1.5 * CENTER - 0.9 * SURROUND
    output = {
        "softplus": np.logaddexp(0, 2 * drive),
        "rectified": np.maximum(drive, 0),
        "squared after threshold": np.maximum(drive + 0.3, 0) ** 2,
        "saturating": 1 / (1 + np.exp(-3 * drive)),
    }[name]
    after, before = indices(output)
    assert after > 0.015
    assert before < 0.003


def test_sums_after_all_nonlinearities_do_not_interact() -> None:
    after, before = indices(np.maximum(CENTER, 0) - 0.5 * np.square(SURROUND))
    assert after < 1e-12
    assert before < 1e-6


def test_a_gain_that_divides_interacts_before_the_output_too() -> None:
    after, before = indices(np.logaddexp(0, 3 * CENTER / (1 + 4 * SURROUND**2)))
    assert after > 0.05
    assert before > 0.03


def test_a_gain_on_one_side_is_a_sum_of_logarithms() -> None:
    after, before = indices(np.maximum(CENTER, 0.1) / (1 + SURROUND**2))
    assert after > 0.01
    assert before < 0.003


def test_flat_maps_have_no_index() -> None:
    assert np.isnan(indices(np.full((7, 7), 3.0))).all()


def test_isotonic_sequences_are_those_of_pooling_adjacent_violators() -> None:
    rows = np.array([[1.0, 3, 2, 4, 3.5, 5], [3, 2, 1, 1, 2, 3], [1, 2, 3, 4, 5, 6]])
    expected = [[1, 2.5, 2.5, 3.75, 3.75, 5], [1.75, 1.75, 1.75, 1.75, 2, 3], [1, 2, 3, 4, 5, 6]]
    np.testing.assert_allclose(isotonic(rows), expected)


def test_linear_nonlinear_cells_at_their_places() -> None:
    _, result = run(cells(difference_of_gaussians))
    table = result.table
    assert table["field_found"].all()
    np.testing.assert_allclose(table[["center_y_px", "center_x_px"]], CENTERS, atol=0.5)
    assert (table["interaction_index"] > 0.01).all()
    assert (table["interaction_before_output"] < 0.005).all()
    assert (table["surround_effect"] < -0.2).all()
    maps = result.arrays["map"].data
    assert maps.shape == (3, 7, 7)
    best = maps[:, :, 3].argmax(axis=1)
    np.testing.assert_array_equal(best, np.where(POLARITY > 0, 6, 0), "spots are at the centre and of the right sign")
    np.testing.assert_allclose(result.axes["center_contrast"].data, settings()["contrasts"])


def test_dividing_cells() -> None:
    _, result = run(cells(divided))
    assert (result.table["interaction_before_output"] > 0.02).all()


def test_cells_without_a_surround() -> None:
    images = parts()
    images[:, 1] = 0
    _, result = run(SubunitCells(separable(images, course(LAG + 1)), softplus), center_sigmas=2.5, inner_sigmas=4.0)
    assert (result.table["interaction_index"] < 0.01).all()
    np.testing.assert_allclose(result.table["surround_effect"], 0, atol=0.03)


def test_neurons_alone_and_members_that_differ() -> None:
    models = cells(difference_of_gaussians), SubunitCells(-separable(parts(), course(LAG + 1)), difference_of_gaussians)
    experiment, result = run(*models)
    assert result.table["interaction_uncertain"].all(), "one member prefers dark, the other bright spots"
    assert result.arrays["interaction_index_members"].data.shape == (3, 2)
    alone = experiment.run(population(*models), np.array([2]))
    np.testing.assert_allclose(alone.arrays["map"].data[0], result.arrays["map"].data[2], rtol=1e-5)
    _, same = run(models[0], cells(difference_of_gaussians))
    assert not same.table["interaction_uncertain"].any()
    np.testing.assert_allclose(same.table["interaction_index_sd_members"], 0, atol=1e-9)


def test_figures_and_settings(tmp_path: Path) -> None:
    experiment, result = run(cells(difference_of_gaussians))
    drawings = experiment.draw({"a": result})
    assert set(drawings) == {"interaction_maps", "interaction_indices"}
    for drawing in drawings.values():
        drawing.figure.savefig(tmp_path / "figure.png")
        assert "3 model neurons" in drawing.caption
    with pytest.raises(InstantiationException, match="with 0 among them"):
        load_experiment(settings(contrasts=[-1.0, -0.5, 0.5, 1.0]))
    with pytest.raises(InstantiationException, match="0 < center_sigmas <= inner_sigmas < outer_sigmas, got 2"):
        load_experiment(settings(center_sigmas=2.0))
