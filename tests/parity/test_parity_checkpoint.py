"""A checkpoint that the published trainer wrote gives the published outputs, with the published package absent."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coread.models import load_core_readout_model


def test_outputs_and_penalty_match(reference_data: Path, assert_matches: Callable[[Tensor, Tensor], None]) -> None:
    assert importlib.util.find_spec("openretina") is None
    model = load_core_readout_model(reference_data / "parity" / "openretina_hdf5_tutorial.ckpt", "cpu")
    with np.load(reference_data / "parity" / "openretina_hdf5_tutorial.npz", allow_pickle=False) as case:
        stimulus = torch.from_numpy(case["x"])
        sessions = [name.removeprefix("y/") for name in case.files if name.startswith("y/")]
        assert model.readout.readout_keys() == sorted(sessions)
        for session in sessions:
            assert_matches(model(stimulus, session), torch.from_numpy(case[f"y/{session}"]))
        assert_matches(model.core.regularizer(), torch.from_numpy(case["core_regularizer"]))
    assert not model.training
    assert list(model.data_info["sessions_kwargs"]["session_0"]["celltypes"][:3]) == [15, 14, 4]
