"""The table of published defects names every one of them, and only tests that exist."""

import ast
import re
from pathlib import Path

import torch

from coread.cli.main import main
from coread.models.member import Member, build_model
from tests.conftest import REPOSITORY

ROWS = re.findall(
    r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", (REPOSITORY / "docs" / "published_defects.md").read_text(), re.MULTILINE
)


def test_every_defect_has_a_row() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 29))


def test_every_row_names_tests_that_exist_or_says_why_not() -> None:
    for number, _, _, tests in ROWS:
        named = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", tests)
        assert named or re.fullmatch(r"no test: (not here|out of scope)", tests), f"defect {number}: {tests}"
        for path, name in named:
            tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
            found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in found, f"defect {number}: {path} has no {name}"


def test_a_model_with_three_channels_is_drawn(tmp_path: Path) -> None:
    info = {
        "input_shape": [3, 6, 6],
        "n_neurons_dict": {"a": 1},
        "mean_activity_dict": {"a": torch.ones(1)},
        "response_scale": {"a": torch.ones(1)},
        "stim_mean": 0.0,
        "stim_std": 1.0,
    }
    config = {
        "model": {
            "_target_": "coread.models.core_readout.UnifiedCoreReadout",
            "hidden_channels": [2],
            "core": {
                "_target_": "coread.modules.core.base_core.SimpleCoreWrapper",
                "temporal_kernel_sizes": [3],
                "spatial_kernel_sizes": [3],
            },
            "readout": {"_target_": "coread.modules.readout.multi_readout.MultiGaussianMaskReadout"},
        },
        "dataloader": {"window_length": 10},
        "loss": {"_target_": "coread.modules.losses.PoissonLoss3d"},
        "optimizer": None,
        "lr_scheduler": None,
    }
    model = build_model(config, info)
    Member(model, config, 0, 0, dict(model.data_info)).save(tmp_path / "model.ckpt")
    main(["visualize", "--model-path", str(tmp_path / "model.ckpt"), "--save-folder", str(tmp_path / "figures")])
    assert "3 input channels" in (tmp_path / "figures" / "core_layer0.txt").read_text()
    assert (tmp_path / "figures" / "receptive_fields_a_0.png").stat().st_size > 1000
