"""`coread visualize`: one drawing of every layer, session and neuron, from a saved member."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from coread.cli.main import main
from coread.insilico.experiment import read_provenance, read_results
from coread.models.member import Member, build_model
from coread.modules.layers.convolutions import CONVOLUTION_TYPES, get_conv_class
from coread.plotting import weights
from coread.plotting.weights import draw_filters

CORE = {
    "_target_": "coread.modules.core.base_core.SimpleCoreWrapper",
    "temporal_kernel_sizes": [5, 3],
    "spatial_kernel_sizes": [3, 3],
}
READOUTS = {
    "mask": {"_target_": "coread.modules.readout.multi_readout.MultiGaussianMaskReadout"},
    "point": {"_target_": "coread.modules.readout.multi_readout.MultiSampledGaussianReadout"},
}


def saved_member(path: Path, readout: str, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = {
        "model": {
            "_target_": "coread.models.core_readout.UnifiedCoreReadout",
            "hidden_channels": [2, 3],
            "core": CORE,
            "readout": READOUTS[readout],
        },
        "dataloader": {"window_length": 20},
        "loss": {"_target_": "coread.modules.losses.PoissonLoss3d"},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True},
        "lr_scheduler": {"_target_": "coread.lr_schedules.constant_lr", "_partial_": True},
    }
    sizes = {"a": 2, "b": 3}
    info = {
        "input_shape": [2, 8, 9],
        "n_neurons_dict": sizes,
        "mean_activity_dict": {session: torch.ones(n) for session, n in sizes.items()},
        "response_scale": {session: torch.ones(n) for session, n in sizes.items()},
        "stim_mean": 0.0,
        "stim_std": 1.0,
    }
    model = build_model(config, info)
    Member(model, config, 0, 0, dict(model.data_info)).save(path)
    return path


@pytest.mark.parametrize("readout", sorted(READOUTS))
def test_every_layer_session_and_neuron_is_drawn(
    readout: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "N_COLUMNS", 1)
    monkeypatch.setattr(weights, "N_ROWS", 2)
    path = saved_member(tmp_path / "model.ckpt", readout)
    main(["visualize", "--model-path", str(path), "--save-folder", str(tmp_path / "figures")])
    names = {file.name for file in (tmp_path / "figures").iterdir()}
    stems = {"core_layer0", "core_layer1", "receptive_fields_a_0", "receptive_fields_b_0", "receptive_fields_b_1"}
    pages = {"mask": {"readout_a_0", "readout_b_0", "readout_b_1"}, "point": {"readout_a", "readout_b"}}
    expected = stems | pages[readout]
    tables = {"receptive_fields.h5", "receptive_fields.csv"}
    assert names == {f"{stem}.{suffix}" for stem in expected for suffix in ("png", "pdf", "txt")} | tables
    assert f"wrote {2 * len(expected) + len(tables)} files" in capsys.readouterr().out
    fields = pd.read_csv(tmp_path / "figures" / "receptive_fields.csv")
    assert list(zip(fields["session"], fields["neuron"], strict=True)) == [
        (s, n) for s in "ab" for n in range(2 + (s == "b"))
    ]
    assert fields[["center_y_px", "diameter_px"]].notna().all(axis=None)
    assert fields["latency_s"].isna().all(), "the model does not know its bins per second"
    caption = (tmp_path / "figures" / "receptive_fields_b_1.txt").read_text()
    assert "Neurons 2 to 2" in caption
    assert "3 output channels (rows), 2 input channels" in (tmp_path / "figures" / "core_layer1.txt").read_text()


def test_a_file_that_is_no_model_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "model.ckpt"
    path.write_text("nothing")
    with pytest.raises(SystemExit, match="1"):
        main(["visualize", "--model-path", str(path), "--save-folder", str(tmp_path)])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "model.ckpt" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", sorted(CONVOLUTION_TYPES))
def test_the_drawn_filters_are_those_of_the_convolution(name: str) -> None:
    conv = get_conv_class(name)(2, 3, {}, 4, 3, bias=False).eval()
    filters = conv.filters()
    x = torch.randn(1, 2, 9, 6, 6)
    torch.testing.assert_close(conv(x), torch.nn.functional.conv3d(x, filters), rtol=1e-4, atol=1e-6)
    drawn = draw_filters(filters.detach().numpy(), 0)
    assert len(drawn.figure.axes[1].collections[0].get_paths()) == 6  # one time course per pair
    separable = np.einsum("t,hw->thw", [0.0, -1.0, 0.5, 0.0], np.ones((3, 3)))[None, None]
    assert "100.0 % of the" in draw_filters(separable, 0).caption


# ---------------------------------------------------------------------------------------------------------- experiments

FLASHES = """\
_target_: coread.insilico.omitted_stimulus.OmittedStimulus
contrast: 1.0
flash_s: 0.03
periods_s: [0.1, 0.2]
n_flashes: 3
grey_s: 0.1
after_s: 0.4
uncertain_sd: 0.1
"""


def run(folder: Path, *arguments: str, models: int = 1) -> Path:
    paths = [str(saved_member(folder / f"seed{seed}.ckpt", "point", seed)) for seed in range(models)]
    out = folder / "out"
    main(["visualize", "--model-path", *paths, "--save-folder", str(out), "--rate-hz", "30", *arguments])
    return out


def test_an_experiment_runs_on_a_checkpoint_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "my_flashes.yaml").write_text(FLASHES)
    named = ["--experiments", "omitted_stimulus", str(tmp_path / "my_flashes.yaml")]
    out = run(tmp_path, *named, "--neurons", "0", "2", models=2)
    figures = {f"omitted_stimulus.{end}" for end in ("png", "pdf", "txt")} | {"figures.csv"}
    for name in ("omitted_stimulus", "my_flashes"):
        table = pd.read_csv(out / f"{name}.csv")
        assert list(zip(table["session"], table["neuron"], strict=True)) == [("a", 0), ("b", 0), ("b", 2)]
        assert {path.name for path in (out / name).iterdir()} == figures
        origin = read_provenance(out / f"{name}.h5")
        assert len(origin["members"]) == 2
    assert origin["settings"]["n_flashes"] == 3
    result = read_results(out / "my_flashes.h5")["b"]
    assert result.arrays["response"].data.shape[:3] == (2, 2, 2), "(neuron, member, period)"
    assert f"wrote 8 files to {out}" in capsys.readouterr().out


def test_a_missing_package_for_movies_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    (tmp_path / "my_flashes.yaml").write_text(FLASHES)
    with pytest.raises(SystemExit):
        run(tmp_path, "--experiments", str(tmp_path / "my_flashes.yaml"), "--movies", "mp4")
    assert "pip install 'coread[movies]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_and_experiments_may_be_asked_for_together(tmp_path: Path) -> None:
    (tmp_path / "my_flashes.yaml").write_text(FLASHES)
    out = run(tmp_path, "--experiments", "weights", str(tmp_path / "my_flashes.yaml"))
    assert (out / "core_layer0.png").is_file()
    assert (out / "my_flashes" / "omitted_stimulus.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiments", "omited_stimulus"], r"no in-silico analysis 'omited_stimulus' .*'omitted_stimulus'"),
        (["--experiments", "nowhere.yaml"], r"nowhere\.yaml"),
        (["--experiments", "omitted_stimulus", "--neurons", "7"], r"--neurons \[7\]: no session .* has any of these"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run(tmp_path, *arguments)
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
