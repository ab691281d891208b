"""Clones, shared features, points predicted from tissue positions, and what is imported when."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from coread.modules.readout import (
    ClonedReadout,
    GaussianMaskReadout,
    MultiFactorizedReadout,
    MultiGaussianMaskReadout,
    MultiReadoutBase,
    MultiSampledGaussianReadout,
    PointGaussianReadout,
)

SHAPE = (3, 12, 7, 11)
FACTORS = {"mask_l1_reg": 0.1, "weights_l1_reg": 0.1, "laplace_mask_reg": 0.1}


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [(MultiGaussianMaskReadout, {}), (MultiFactorizedReadout, FACTORS), (MultiSampledGaussianReadout, {})],
)
def test_clones_share_all_but_factor_and_offset(cls: type[MultiReadoutBase], kwargs: dict[str, Any]) -> None:
    rates = {"a": torch.rand(4) + 0.5, "b": torch.rand(4) + 0.5}
    readout = cls(SHAPE, {"a": 4, "b": 4}, mean_activity_dict=rates, clone_readout=True, **kwargs).eval()
    assert isinstance(readout["b"], ClonedReadout)
    silence = readout(torch.zeros(1, *SHAPE), data_key="b")
    torch.testing.assert_close(silence, rates["b"].expand_as(silence), rtol=1e-3, atol=1e-4)
    readout.initialize()
    with torch.no_grad():
        readout["b"].alpha.fill_(2.0)
        readout["b"].beta.fill_(0.5)
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(readout(x, data_key="b"), 2 * readout(x, data_key="a") + 0.5)
    torch.testing.assert_close(readout.regularizer("b"), readout.regularizer("a"))
    readout.train()(x, data_key="b").sum().backward()
    assert all(parameter.grad is not None for parameter in readout["b"].parameters())
    n_own = sum(parameter.numel() for parameter in readout["a"].parameters())
    assert sum(parameter.numel() for parameter in readout.parameters()) == n_own + 8
    readout.add_sessions({"c": 4}, {"c": torch.ones(4)})
    assert readout["c"]._source is readout["a"]
    with pytest.raises(ValueError, match="session 'd' has 5 neurons, the readout that it clones has 4"):
        readout.add_sessions({"d": 5}, {"d": torch.ones(5)})


def test_rates_of_clones_stay_positive_unless_published() -> None:
    source = GaussianMaskReadout(SHAPE, 4)
    x = torch.randn(1, *SHAPE)
    for published in (False, True):
        clone = ClonedReadout(source, published_behaviour=published)
        with torch.no_grad():
            clone.alpha[0], clone.beta[1] = -1.0, -100.0
        y = clone(x)
        assert bool((y >= 0).all()) is not published
    torch.testing.assert_close(clone.feature_l1(), (source.features * clone.alpha).abs().mean())


@pytest.mark.parametrize("batch_sample", [True, False])
def test_neurons_with_one_match_id_share_features(batch_sample: bool) -> None:
    ids = np.array([7, 3, 3, 9])
    readout = PointGaussianReadout(SHAPE, 4, shared_features={"match_ids": ids}, batch_sample=batch_sample).eval()
    assert readout.shared_features.shape == (1, 3, 1, 3)
    names = {"_mu", "sigma", "_features", "scales", "feature_sharing_index", "bias"}
    assert set(readout.state_dict()) == names
    with torch.no_grad():
        readout.shared_features.normal_()
        readout.scales.copy_(torch.tensor([1.0, 2.0, -3.0, 1.0])[None, None, None])
    features = readout.features[0, :, 0]
    torch.testing.assert_close(features[:, 1] / 2, features[:, 2] / -3)
    torch.testing.assert_close(features[:, 0], readout.shared_features[0, :, 0, 1])  # ids in sorted order: 3, 7, 9
    readout(torch.randn(1, *SHAPE)).sum().backward()
    assert all((p.grad != 0).any() for name, p in readout.named_parameters() if name != "sigma")
    borrowed = PointGaussianReadout(
        SHAPE, 3, shared_features={"match_ids": [9, 3, 7], "shared_features": readout.shared_features}
    )
    assert borrowed.shared_features is readout.shared_features
    assert borrowed.regularizer() > 0
    published = PointGaussianReadout(
        SHAPE,
        3,
        shared_features={"match_ids": [9, 3, 7], "shared_features": readout.shared_features},
        published_behaviour=True,
    )
    assert published.regularizer() == 0
    with pytest.raises(ValueError, match=r"\(1, 3, 1, 2\)"):
        PointGaussianReadout(
            SHAPE, 2, shared_features={"match_ids": [3, 7], "shared_features": readout.shared_features}
        )
    with pytest.raises(ValueError, match="one match id for each of 2 neurons"):
        PointGaussianReadout(SHAPE, 2, shared_features={"match_ids": ids})


def test_shared_points() -> None:
    first = PointGaussianReadout(SHAPE, 4, shared_grid={"match_ids": [5, 5, 1, 2]}).eval()
    torch.testing.assert_close(first.mu[0, 0], first.mu[0, 1])
    second = PointGaussianReadout(
        SHAPE, 3, shared_grid={"match_ids": [1, 2, 5], "shared_grid": first.shared_grid}
    ).eval()
    torch.testing.assert_close(second.mu[0, [2, 0, 1]], first.mu[0, [0, 2, 3]])
    with torch.no_grad():
        second.mu_transform.bias.fill_(0.1)
    torch.testing.assert_close(second.mu[0, 2], first.mu[0, 0] + 0.1)
    with pytest.raises(ValueError, match="cannot be set"):
        first.initialize_positions(torch.zeros(4, 2))


TABLES = {
    "a": {"match_id": ["x", "y", "z"], "px": [0.0, 1.0, 2.0], "py": [0.0, 2.0, 1.0]},
    "b": {"match_id": ["z", "w"], "px": [5.0, 6.0], "py": [1.0, 0.0]},
}


def test_sessions_share_features_by_a_column() -> None:
    readout = MultiSampledGaussianReadout(
        SHAPE, {"a": 3, "b": 2}, shared_features={"match_column": "match_id"}, neurons_dict=TABLES
    ).eval()
    assert readout["a"].shared_features is readout["b"].shared_features
    assert readout["a"].shared_features.shape == (1, 3, 1, 4)  # w x y z
    with torch.no_grad():
        readout["a"].shared_features.normal_()
    torch.testing.assert_close(readout["a"].features[..., 2], readout["b"].features[..., 0])
    assert not torch.allclose(readout["a"].features[..., 2], readout["b"].features[..., 1])
    readout.add_sessions({"c": 1}, neurons_dict={"c": {"match_id": ["x"]}})
    torch.testing.assert_close(readout["c"].features[..., 0], readout["a"].features[..., 0])
    with pytest.raises(ValueError, match=r"unknown match ids \['v'\]"):
        readout.add_sessions({"d": 1}, neurons_dict={"d": {"match_id": ["v"]}})


def test_points_from_columns_of_the_tables_of_neurons() -> None:
    predictor = {"hidden_layers": 1, "hidden_features": 4, "final_tanh": True}
    kwargs: dict[str, Any] = {"grid_mean_predictor": predictor, "neurons_dict": TABLES}
    readout = MultiSampledGaussianReadout(SHAPE, {"a": 3, "b": 2}, source_columns=["px", "py"], **kwargs)
    expected = torch.tensor([[-1.0, -1.0], [0.0, 1.0], [1.0, 0.0]])  # centred, the largest coordinate 1
    torch.testing.assert_close(readout["a"].source_grid, expected)
    readout(torch.randn(1, *SHAPE), data_key="b").sum().backward()
    assert (readout["b"].mu_transform[0].weight.grad != 0).any()
    given = MultiSampledGaussianReadout(
        SHAPE, {"a": 3, "b": 2}, grid_mean_predictor=predictor, source_grid={"a": np.eye(3), "b": np.eye(2)}
    )
    assert given["a"].source_grid.shape == (3, 3)
    with pytest.raises(ValueError, match="session 'a': the table of neurons has no column 'pz'"):
        MultiSampledGaussianReadout(SHAPE, {"a": 3}, source_columns=["px", "pz"], **kwargs)


def test_shift_moves_all_points_and_out_idx_chooses_neurons() -> None:
    readout = PointGaussianReadout(SHAPE, 5, nonlinearity_function="identity").eval()
    readout.initialize_positions(torch.zeros(5, 2))
    x = torch.randn(2, *SHAPE)
    step = torch.tensor([[2 / 10, 0.0], [0.0, 2 / 6]])  # one pixel to the right; one down
    y = readout(x, shift=step)
    torch.testing.assert_close(y[0, :, 0], x[0, :, :, 3, 6].mean(0) + readout.bias[0])
    torch.testing.assert_close(y[1, :, 0], x[1, :, :, 4, 5].mean(0) + readout.bias[0])
    per_frame = torch.zeros(2, 12, 2)
    per_frame[:, 5] = step
    moved = readout(x, shift=per_frame)
    torch.testing.assert_close(moved[:, 5], y[:, 5])
    torch.testing.assert_close(moved[:, :5], readout(x)[:, :5])
    torch.testing.assert_close(readout(x, out_idx=torch.tensor([3, 1])), readout(x)[..., [3, 1]])
    mask = torch.tensor([True, False, False, True, False])
    torch.testing.assert_close(readout(x, out_idx=mask), readout(x)[..., mask])
    with pytest.raises(ValueError, match="shift must be"):
        readout(x, shift=torch.zeros(3, 2))


def test_a_readout_is_imported_when_it_is_asked_for() -> None:
    program = """
import sys
from coread.modules.readout.multi_readout import MultiReadoutBase, MultiLNPReadout
import coread.modules.readout as package
loaded = sorted(name.rsplit(".", 1)[1] for name in sys.modules if name.startswith("coread.modules.readout."))
assert loaded == ["base", "cloned", "linear_nonlinear", "multi_readout"], loaded
assert package.MultiLNPReadout is MultiLNPReadout
for module in (package, sys.modules["coread.modules.readout.multi_readout"]):
    for name in module.__all__:
        assert isinstance(getattr(module, name), type), name
    try:
        module.MultiNothing
    except AttributeError as error:
        assert "MultiNothing" in str(error)
    else:
        raise AssertionError("no error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_published_names_and_static_filters() -> None:
    from coread.modules.readout.factorized import FactorizedReadout, KlindtReadoutWrapper3D
    from coread.modules.readout.gaussian import FullGaussian2d
    from coread.modules.readout.linear_nonlinear import MultiLNPReadout
    from coread.modules.readout.linear_nonlinear_poison import LNPReadout
    from coread.modules.readout.multi_readout import MultipleLNPReadout

    assert (KlindtReadoutWrapper3D, FullGaussian2d) == (FactorizedReadout, PointGaussianReadout)
    assert MultipleLNPReadout is MultiLNPReadout
    readout = LNPReadout(SHAPE, 4, temporal_kernel_size=1, nonlinearity="exp", sparse_weight=1.0, smooth_weight=1.0)
    weight, bias = torch.randn(4, 3, 1, 7, 11), torch.randn(4)
    kernel_of_penalty = {"_smooth_reg_fn.laplace.filter": torch.zeros(1, 1, 3, 3)}
    readout.load_state_dict(
        {"inner_product_kernel.weight": weight, "inner_product_kernel.bias": bias, **kernel_of_penalty}
    )
    x = 0.1 * torch.randn(2, *SHAPE)
    expected = F.conv3d(x, weight, bias).exp()[..., 0, 0].transpose(1, 2)
    torch.testing.assert_close(readout(x), expected, rtol=1e-4, atol=1e-5)
