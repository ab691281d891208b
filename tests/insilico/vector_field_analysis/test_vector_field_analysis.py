from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import io
from tests.insilico.subunit_models import SESSION, Law, SubunitCells, linear, rectified, softplus

from coread.insilico.vector_field_analysis.vector_field_analysis import (
    compute_lsta_library,
    get_images_coordinate,
    get_model_temporal_padding,
    get_pc_from_pca,
    load_and_preprocess_images,
    normalize_movies_array,
    plot_clean_vectorfield,
    plot_untreated_vectorfield,
    prepare_movies_dataset,
    principal_components,
)
from coread.plotting.vector_field import bin_means, plot_vector_field_resp_iso

LAG, HEIGHT, WIDTH, N_CELLS = 3, 5, 6, 4
RNG = np.random.default_rng(0)
FILTERS = 0.3 * RNG.standard_normal((N_CELLS, 2, LAG + 1, 2, HEIGHT, WIDTH))
IMAGES = RNG.uniform(0, 255, (7, 2, HEIGHT, WIDTH))


def movies(model: SubunitCells) -> np.ndarray:
    prepared, n_grey = prepare_movies_dataset(model, SESSION, 8, image_library=IMAGES)  # type: ignore[arg-type]
    assert n_grey == LAG + 10
    return prepared


def published_lstas(model: SubunitCells, shown: np.ndarray, cell: int, window: tuple[int, int]) -> np.ndarray:
    """Return LSTAs as the published code computes them: averaged over all frames of the movie."""
    stimuli = torch.tensor(shown, dtype=torch.float32, requires_grad=True)
    model.eval()(stimuli, SESSION)[:, window[0] : window[1], cell].sum().backward()
    assert stimuli.grad is not None
    return stimuli.grad.mean(dim=2).numpy()


@pytest.mark.parametrize("law", [linear, softplus, rectified])
def test_all_cells_in_one_pass_are_the_published_ones_one_by_one(law: Law) -> None:
    model = SubunitCells(FILTERS, law)
    shown = movies(model)
    lstas, responses = compute_lsta_library(model, shown, SESSION, None, batch_size=3, average="all")
    assert lstas.shape == (N_CELLS, 7, 2, HEIGHT, WIDTH)
    for cell in range(N_CELLS):
        np.testing.assert_allclose(lstas[cell], published_lstas(model, shown, cell, (5, 15)), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(responses, model.eval()(torch.tensor(shown), SESSION), rtol=1e-4, atol=1e-5)
    assert model.filters.grad is not None  # of the published code's backward alone
    model.filters.grad = None
    compute_lsta_library(model, shown, SESSION, [2, 0])
    assert model.filters.grad is None, "weights get no gradients"


def test_window_average_is_over_the_frames_on_screen_during_the_window() -> None:
    model = SubunitCells(FILTERS, linear)
    start, stop = 6, 9
    lsta, _ = compute_lsta_library(model, movies(model), SESSION, 1, integration_window=(start, stop))
    kernel = FILTERS[1].sum(axis=0)  # (lag_bin, channel, height, width)
    expected = np.zeros((2, HEIGHT, WIDTH))
    for output in range(start, stop):
        for frame in range(start + LAG, stop + LAG):
            if 0 <= output + LAG - frame <= LAG:
                expected += kernel[output + LAG - frame]
    np.testing.assert_allclose(lsta, np.broadcast_to(expected / (stop - start), lsta.shape), rtol=1e-4, atol=1e-6)


def test_one_cell_has_no_axis_and_several_have() -> None:
    model = SubunitCells(FILTERS, softplus)
    shown = movies(model)
    one, _ = compute_lsta_library(model, shown, SESSION, 2)
    several, _ = compute_lsta_library(model, shown, SESSION, [2, 0])
    assert one.shape == (7, 2, HEIGHT, WIDTH)
    np.testing.assert_allclose(several[0], one, rtol=1e-5, atol=1e-7)


def test_errors_name_what_is_wrong() -> None:
    model = SubunitCells(FILTERS, softplus)
    shown = movies(model)
    with pytest.raises(IndexError, match="cell_id 4 is out of bounds, the session has 4 cells"):
        compute_lsta_library(model, shown, SESSION, 4)
    with pytest.raises(ValueError, match=r"integration_window \(30, 40\) holds none of the 18 bins"):
        compute_lsta_library(model, shown, SESSION, 0, integration_window=(30, 40))
    with pytest.raises(ValueError, match="average 'some' is unknown"):
        compute_lsta_library(model, shown, SESSION, 0, average="some")
    with pytest.raises(ValueError, match="either image_library or image_dir"):
        prepare_movies_dataset(model, SESSION)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must be \(image, 2, 5, 6\)"):
        prepare_movies_dataset(model, SESSION, image_library=IMAGES[:, :1])  # type: ignore[arg-type]


def test_movies_are_grey_and_then_the_normalised_image() -> None:
    model = SubunitCells(FILTERS, linear)
    assert get_model_temporal_padding(model, 2, HEIGHT, WIDTH) == LAG
    model.data_info |= {"stim_mean": 100.0, "stim_std": 25.0}
    whole = np.round(IMAGES).astype(np.uint8)
    prepared, n_grey = prepare_movies_dataset(model, SESSION, 4, image_library=whole)  # type: ignore[arg-type]
    assert prepared.shape == (7, 2, n_grey + 4, HEIGHT, WIDTH)
    np.testing.assert_allclose(prepared[:, :, n_grey:], ((whole - 100.0) / 25)[:, :, None].repeat(4, axis=2), rtol=1e-5)
    np.testing.assert_allclose(prepared[:, :, :n_grey], ((whole - 100.0) / 25).mean(), rtol=1e-4)
    raw, _ = prepare_movies_dataset(model, SESSION, 4, normalize_movies=False, image_library=whole)  # type: ignore[arg-type]
    np.testing.assert_array_equal(raw[:, :, -1], whole)
    del model.data_info["stim_std"]
    with pytest.raises(ValueError, match="stim_std"):
        normalize_movies_array(prepared, model, SESSION, 2)  # type: ignore[arg-type]


def test_images_of_a_folder_are_thinned_and_cut_to_the_middle(tmp_path: Path) -> None:
    large = (np.arange(13)[:, None] * 16 + np.arange(14)).astype(np.uint8)
    io.imsave(tmp_path / "b.png", large, check_contrast=False)
    io.imsave(tmp_path / "a.png", np.stack([large] * 3, axis=-1), check_contrast=False)
    loaded = load_and_preprocess_images(tmp_path, HEIGHT, WIDTH, 2)
    thinned = large[::2, ::2]
    assert thinned.shape == (7, 7)
    np.testing.assert_allclose(loaded, np.broadcast_to(thinned[1:6, 0:6], (2, 2, HEIGHT, WIDTH)))
    with pytest.raises(ValueError, match=r"at least \(20, 20\) pixels"):
        load_and_preprocess_images(tmp_path, 20, 20, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no PNG files"):
        load_and_preprocess_images(tmp_path / "empty", HEIGHT, WIDTH, 1)


def test_components_are_the_eigenvectors_of_the_covariance() -> None:
    vectors = RNG.standard_normal((3, 20, 8)) * np.array([5, 3, 1, 1, 1, 0.5, 0.5, 0.1])
    components, shares = principal_components(vectors)
    for neuron in range(3):
        values, axes = np.linalg.eigh(np.cov(vectors[neuron].T))
        np.testing.assert_allclose(shares[neuron], values[[-1, -2]] / values.sum(), rtol=1e-8)
        np.testing.assert_allclose(np.abs((components[neuron] * axes[:, [-1, -2]].T).sum(axis=1)), 1, rtol=1e-8)
        assert (components[neuron][np.arange(2), np.abs(components[neuron]).argmax(axis=1)] > 0).all()
    assert np.isnan(principal_components(np.ones((1, 5, 8)))[1]).all()
    lstas = RNG.standard_normal((9, 2, HEIGHT, WIDTH))
    pc1, pc2, shares = get_pc_from_pca(None, 1, lstas)
    assert pc1.shape == (HEIGHT * WIDTH,)
    assert abs(pc1 @ pc2) < 1e-10
    points = get_images_coordinate(lstas[:, 1], pc1, pc2)
    np.testing.assert_allclose(points[:, 1], lstas[:, 1].reshape(9, -1) @ pc2)
    assert np.ptp(points[:, 0]) >= 0


def test_bins_hold_all_images_the_outermost_too() -> None:
    points = np.array([[0.0, 0.0], [0.1, 0.1], [1.0, 1.0], [1.0, 0.0]])
    mean = bin_means(points, np.array([[1.0], [3.0], [10.0], [20.0]]), (2, 2))
    np.testing.assert_allclose(np.sort(mean[:, 0]), [2, 10, 20])


def test_figures_draw_an_arrow_for_every_image_and_every_occupied_bin() -> None:
    model = SubunitCells(FILTERS, rectified)
    lstas, responses = compute_lsta_library(model, movies(model), SESSION, 0)
    pc1, pc2, shares = get_pc_from_pca(model, 0, lstas)
    points = get_images_coordinate(IMAGES[:, 0] / 255, pc1, pc2)
    raw = plot_untreated_vectorfield(lstas, 0, pc1, pc2, points)
    (quiver,) = [each for each in raw.axes[0].collections if hasattr(each, "U")]
    np.testing.assert_allclose(quiver.U, lstas[:, 0].reshape(7, -1) @ pc1, rtol=1e-6)
    assert raw.axes[0].get_xlim()[1] >= np.abs(points).max()
    clean = plot_clean_vectorfield(
        lstas, 0, pc1, pc2, IMAGES[:, 0] / 255, points, shares, x_bins=1, y_bins=1, responses=responses[:, 8, 0]
    )
    (quiver,) = [each for each in clean.axes[0].collections if hasattr(each, "U")]
    np.testing.assert_allclose(quiver.U, (lstas[:, 0].reshape(7, -1) @ pc1).mean(), rtol=1e-5)
    clean.canvas.draw()
    with pytest.raises(ValueError, match="needs images"):
        plot_clean_vectorfield(lstas[:0], 0, pc1, pc2, IMAGES[:0, 0], points[:0], shares)


def test_iso_response_lines_with_arrows_where_there_is_a_gradient() -> None:
    contrasts = np.linspace(-1, 1, 5)
    response = np.maximum(contrasts[:, None] + 0 * contrasts, 0)
    gradient = np.stack([np.where(contrasts[:, None] + 0 * contrasts > 0, 1.0, 0.0), np.zeros((5, 5))])
    figure = plot_vector_field_resp_iso(contrasts, contrasts, gradient, response, normalize_response=True)
    (quiver,) = [each for each in figure.axes[0].collections if hasattr(each, "U")]
    assert len(quiver.U) == 3, "arrows only where the response grows"
    figure.canvas.draw()
    with pytest.raises(ValueError, match="two gradients for each"):
        plot_vector_field_resp_iso(contrasts, contrasts[1:], gradient, response)
