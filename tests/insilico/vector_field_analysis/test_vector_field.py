from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.errors import InstantiationException
from tests.conftest import REPOSITORY
from tests.insilico.subunit_models import (
    SubunitCells,
    course,
    gaussian,
    linear,
    population,
    rectified,
    separable,
    softplus,
    squared,
)

from coread.insilico.running import load_experiment
from coread.insilico.vector_field_analysis.vector_field import (
    VectorField,
    member_cosine,
    pairwise_cosine,
    reversed_share,
    varying_share,
)

LAG, HEIGHT, WIDTH = 4, 9, 11
CENTERS = [(3.0, 4.0), (5.0, 6.5)]


def one_filter(sign: float = 1.0) -> np.ndarray:
    images = np.stack(
        [[sign * (gaussian(c, 1.0, HEIGHT, WIDTH) - 0.4 * gaussian(c, 2.5, HEIGHT, WIDTH))] for c in CENTERS]
    )
    return separable(4 * images, course(LAG + 1))


def on_and_off() -> np.ndarray:
    return np.concatenate([one_filter(), one_filter(-1.0)], axis=1)


def subunits() -> np.ndarray:
    places = [(-1.5, -1.5), (-1.5, 1.5), (1.5, -1.5), (1.5, 1.5)]
    images = np.stack([[gaussian((y + dy, x + dx), 0.7, HEIGHT, WIDTH) for dy, dx in places] for y, x in CENTERS])
    return separable(2 * images, course(LAG + 1))


def settings(**changed: Any) -> dict[str, Any]:
    node = yaml.safe_load((REPOSITORY / "configs/insilico/vector_field.yaml").read_text())
    return node | {"images": node["images"] | {"n_images": 40, "image_s": 0.3, "window_s": [0.0, 0.3]}} | changed


def run(*models: SubunitCells, **changed: Any):
    experiment = load_experiment(settings(**changed))
    return experiment, experiment.run(population(*models), np.arange(len(CENTERS)))


@pytest.mark.parametrize("average", ["window", "all"])
def test_a_linear_cell_has_one_field_and_an_ln_cell_one_of_many_sizes(average: str) -> None:
    for law, varies in ((linear, False), (softplus, True)):
        _, result = run(SubunitCells(one_filter(), law), average=average)
        table = result.table
        np.testing.assert_allclose(table["lsta_cosine"], 1, atol=1e-5)
        np.testing.assert_array_equal(table["lsta_reversed_share"], 0)
        if varies:
            assert (table["lsta_varying_share"] > 0.01).all()
            assert (table["lsta_pc1_share"] > 0.99).all()
            component = result.arrays["component"].data[:, 0, 0]
            truth = one_filter()[:, 0, 1, 0]
            cosine = (component * truth).sum(axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))
            np.testing.assert_allclose(np.abs(cosine), 1, atol=1e-3)
        else:
            assert (table["lsta_varying_share"] < 1e-6).all()
            assert table["lsta_pc1_share"].isna().all(), "nothing varies, so there are no components"


def test_on_off_cells_reverse_and_subunits_change_shape() -> None:
    _, on_off = run(SubunitCells(on_and_off(), rectified))
    assert (on_off.table["lsta_reversed_share"] > 0.2).all()
    assert (on_off.table["lsta_cosine"] < 0.5).all()
    _, energy = run(SubunitCells(one_filter(), squared))
    assert (energy.table["lsta_reversed_share"] > 0.2).all()
    _, many = run(SubunitCells(subunits(), rectified))
    np.testing.assert_array_equal(many.table["lsta_reversed_share"], 0)
    assert (many.table["lsta_cosine"] < 0.97).all()
    assert (many.table["lsta_pc1_share"] < 0.9).all()


def test_neurons_do_not_depend_on_each_other_and_members_that_differ_are_uncertain() -> None:
    models = SubunitCells(one_filter(), softplus), SubunitCells(one_filter()[::-1].copy(), softplus)
    experiment, result = run(*models)
    alone = experiment.run(population(*models), np.array([1]))
    np.testing.assert_allclose(alone.arrays["arrow"].data[0], result.arrays["arrow"].data[1], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(alone.table["lsta_cosine"][0], result.table["lsta_cosine"][1], rtol=1e-6)
    assert result.table["lsta_uncertain"].all()
    assert result.table["lsta_cosine_sd_members"].notna().all()
    assert result.arrays["lsta_cosine_members"].data.shape == (2, 2)
    _, same = run(models[0], SubunitCells(one_filter(), softplus))
    np.testing.assert_allclose(same.table["lsta_member_cosine"], 1, atol=1e-6)
    assert not same.table["lsta_uncertain"].any()
    np.testing.assert_allclose(same.table["lsta_varying_share_sd_members"], 0, atol=1e-7)
    _, single = run(models[0])
    assert single.table["lsta_cosine_sd_members"].isna().all()
    assert not single.table["lsta_uncertain"].any()


def test_arrows_point_where_the_response_grows() -> None:
    """A step along an arrow raises the response; the arrow is the gradient inside the plane of both components."""
    _, result = run(SubunitCells(on_and_off(), rectified))
    arrow, point = result.arrays["arrow"].data[..., 0], result.arrays["coordinate"].data[..., 0]
    # an ON-OFF cell grows away from the middle, on both sides
    for neuron in range(2):
        far = np.abs(point[neuron]) > np.quantile(np.abs(point[neuron]), 0.5)
        assert np.mean(np.sign(arrow[neuron][far]) == np.sign(point[neuron][far])) > 0.8


def test_measures_of_small_sets_of_fields() -> None:
    one, other = np.eye(4)[:2]
    lstas = np.stack([[one, one, one], [one, -one, other], [one, 0 * one, 2 * one], [0 * one] * 3])
    np.testing.assert_allclose(pairwise_cosine(lstas), [1, -1 / 3, 1, np.nan])
    np.testing.assert_allclose(varying_share(lstas), [0, 1 - (1 / 9), 1 - 1 / (5 / 3), np.nan], atol=1e-12)
    np.testing.assert_allclose(reversed_share(lstas), [0, 1 / 2, 0, np.nan])
    np.testing.assert_allclose(member_cosine(np.stack([lstas, -lstas]))[:3], -1)
    assert np.isnan(member_cosine(lstas[None])).all()


def test_figures_and_settings(tmp_path: Path) -> None:
    experiment, result = run(SubunitCells(subunits(), rectified), SubunitCells(one_filter(), softplus))
    drawings = experiment.draw({"a": result})
    assert set(drawings) == {"vector_field", "lsta_variation"}
    for drawing in drawings.values():
        drawing.figure.savefig(tmp_path / "figure.png")
        assert "2 model neurons" in drawing.caption
    with pytest.raises(InstantiationException, match="average 'none' is unknown"):
        load_experiment(settings(average="none"))
    with pytest.raises(InstantiationException, match="at least 3 images"):
        load_experiment(settings(images=settings()["images"] | {"n_images": 2}))
    with pytest.raises(ValueError, match="outside the movie"):
        run(SubunitCells(subunits(), rectified), images=settings()["images"] | {"window_s": [0.0, 2.0]})
    assert isinstance(experiment, VectorField)
