"""Published checkpoints load by name and by path, with their outputs; crafted ones are refused by name."""

import _codecs
import builtins
import functools
import importlib
import operator
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from coread import models
from coread.eval.predictions import predict
from coread.models import is_model_causal, load_core_readout_from_remote, load_core_readout_model
from coread.models.member import MemberError, load_member
from coread.models.pretrained import CheckpointError, UnsafeCheckpointError, read_checkpoint, released, released_models
from coread.models.pretrained.config_nodes import plain_value
from coread.models.pretrained.safe_pickle import InertRecord
from coread.models.pretrained.targets import PUBLISHED, our_class
from tests.conftest import REPOSITORY, fabricate_recording
from tests.models.published_checkpoint import (
    HIDDEN,
    IN_SHAPE,
    SIZES,
    Asks,
    published_content,
    trained_model,
    write_checkpoint,
    write_pickle,
)

LOW_RES = "hoefling_2024_low_res"
LOW_RES_PATH = "model_checkpoints/2026-03-09/hoefling_2024_low_res.ckpt"


@pytest.fixture(autouse=True)
def no_cache_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENRETINA_CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("COREAD_CACHE_DIRECTORY", str(tmp_path / "default_cache"))


# -------------------------------------------------------------------------------------------------- released by name


@pytest.mark.parametrize("readout", ["MultiSampledGaussianReadout", "MultiGaussianMaskReadout"])
@pytest.mark.parametrize("place", [LOW_RES_PATH, f"{LOW_RES}.ckpt"])
def test_a_released_model_loads_by_name_from_the_cache(tmp_path: Path, readout: str, place: str) -> None:
    source = trained_model(readout)
    write_checkpoint(tmp_path / place, published_content(source, readout))
    model = load_core_readout_from_remote(LOW_RES, "cpu", tmp_path)
    assert not any(module.training for module in model.modules())
    assert model.stimulus_shape(time_steps=50) == (1, 2, 50, 18, 16)
    stimulus = torch.rand(model.stimulus_shape(time_steps=50))
    for session in SIZES:
        torch.testing.assert_close(model(stimulus, session), source(stimulus, session), rtol=0, atol=0)
    assert model(stimulus).shape == (1, 20, 5)
    assert model.lag == 30
    assert is_model_causal(model)
    assert [tuple(readout.in_shape) for readout in model.readout.values()] == [(16, 120, 8, 6)] * 2
    assert [conv.kernel_size for conv in model.core.convolutions] == [(21, 11, 11), (11, 5, 5)]
    assert [conv.out_channels for conv in model.core.convolutions] == list(HIDDEN)
    assert model.core.gamma_temporal == 58.97
    assert model.data_info["n_neurons_dict"] == SIZES


@pytest.mark.parametrize("variable", ["COREAD_CACHE_DIRECTORY", "OPENRETINA_CACHE_DIRECTORY"])
def test_the_cache_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("COREAD_CACHE_DIRECTORY")
    monkeypatch.setenv(variable, str(tmp_path))
    write_checkpoint(tmp_path / LOW_RES_PATH, published_content(trained_model()))
    assert load_core_readout_from_remote(LOW_RES, "cpu").lag == 30
    assert models.core_readout.load_core_readout_model(LOW_RES, "cpu").lag == 30


def test_the_registry_names_the_released_models() -> None:
    assert released_models().keys() >= {
        "hoefling_2024_low_res",
        "hoefling_2024_high_res",
        "karamanlis_2024_mouse",
        "karamanlis_2024_marmoset",
        "maheswaranathan_2023",
        "sridhar_2025",
        "goldin_2022_axolotl",
        "goldin_2022_mouse",
        "hoefling_2024_base_low_res",
    }
    assert released_models()[LOW_RES]["path"] == LOW_RES_PATH
    assert all(entry["path"].endswith(f"/{name}.ckpt") for name, entry in released_models().items())


def test_an_absent_model_is_fetched_once_and_then_needs_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = write_checkpoint(tmp_path / "served" / LOW_RES_PATH, published_content(trained_model()))
    registry = {"source": {"url": (tmp_path / "served").as_uri() + "/"}, "models": dict(released_models())}
    monkeypatch.setattr(released, "read_registry", lambda: registry)
    cache = tmp_path / "cache"
    assert load_core_readout_from_remote(LOW_RES, "cpu", cache).lag == 30
    assert (cache / LOW_RES_PATH).read_bytes() == served.read_bytes()
    served.unlink()
    assert load_core_readout_from_remote(LOW_RES, "cpu", cache).lag == 30
    altered = bytearray((cache / LOW_RES_PATH).read_bytes())
    altered[-40] ^= 1
    (cache / LOW_RES_PATH).write_bytes(altered)
    with pytest.raises(OSError, match=r"hoefling_2024_low_res\.ckpt"):
        load_core_readout_from_remote(LOW_RES, "cpu", cache)


def test_a_file_that_is_not_the_registered_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / LOW_RES_PATH, published_content(trained_model()))
    entry = {**released_models()[LOW_RES], "sha256": "0" * 64}
    monkeypatch.setattr(released, "read_registry", lambda: {"source": {}, "models": {LOW_RES: entry}})
    with pytest.raises(CheckpointError, match=f"that of {LOW_RES} is 0000"):
        load_core_readout_from_remote(LOW_RES, "cpu", tmp_path)


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no released model 'hoefling_2024_lowres' .did you mean 'hoefling"):
        load_core_readout_from_remote("hoefling_2024_lowres", "cpu", tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing\.ckpt: there is no such file.*goldin_2022_mouse"):
        load_core_readout_model(tmp_path / "nothing.ckpt", "cpu")


# ---------------------------------------------------------------------------------------------- what checkpoints hold


def test_a_loaded_model_predicts_recordings(tmp_path: Path) -> None:
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", published_content(trained_model())), "cpu")
    session = next(iter(SIZES))
    recording = fabricate_recording(session, n_neurons=SIZES[session], shape=(2, 18, 16), test_length=40)
    assert (model.data_info["stim_mean"], model.data_info["stim_std"]) == (0.0, 1.0)  # NaN: normalised when published
    predicted = predict(model, recording, model.data_info)
    frames = torch.from_numpy(recording.stimuli["test"].frames[:].astype("float32")).movedim(0, 1)[None]
    first = recording.trial == recording.trials.index[recording.trials["tier"] == "test"][0]
    torch.testing.assert_close(torch.from_numpy(predicted[first][30:]), model(frames, session)[0].detach())


@pytest.mark.parametrize("padding", ["same", True, 2])
def test_published_padding_in_time_is_kept(tmp_path: Path, padding: Any) -> None:
    source = trained_model(hidden_padding=padding)
    content = published_content(source, hidden_padding=padding)
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")
    stimulus = torch.rand(1, *IN_SHAPE)
    torch.testing.assert_close(model(stimulus), source(stimulus), rtol=0, atol=0)
    assert not is_model_causal(model)


def test_frames_are_cut_by_the_published_default(tmp_path: Path) -> None:
    content = published_content(trained_model())
    core = OmegaConf.to_container(content["hyper_parameters"]["core"], resolve=True)
    del core["cut_first_n_frames"]
    content["hyper_parameters"]["core"] = OmegaConf.create(core)
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")
    assert model.core.cut_first_n_frames == 30
    assert model.lag == 60


def test_the_published_example_class_and_its_old_bias_name(tmp_path: Path) -> None:
    source = trained_model("MultiGaussianMaskReadout")
    content = published_content(source, "MultiGaussianMaskReadout")
    content["state_dict"] = {
        name + "_param" if name.startswith("readout.") and name.endswith(".bias") else name: value
        for name, value in source.state_dict().items()
    }
    content["hyper_parameters"] = {
        "in_shape": IN_SHAPE,
        "hidden_channels": HIDDEN,
        "temporal_kernel_sizes": (21, 11),
        "spatial_kernel_sizes": (11, 5),
        "n_neurons_dict": dict(SIZES),
        "core_gamma_temporal": 40.0,
        "core_hidden_padding": (0, 2, 2),
        "cut_first_n_frames_in_core": 0,
        "readout_gaussian_masks": True,
        "readout_gamma": 0.4,
        "learning_rate": 0.01,
        "data_info": {"input_shape": (2, 18, 16)},
    }
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")
    stimulus = torch.rand(1, 2, 40, 18, 16)
    torch.testing.assert_close(model(stimulus), source(stimulus), rtol=0, atol=0)
    assert model.core.gamma_temporal == 40.0


def test_objects_of_the_published_package_are_kept_as_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("openretina.modules.losses.poisson")
    loss = type("PoissonLoss3d", (torch.nn.Module,), {"__module__": module.__name__})
    module.PoissonLoss3d = loss  # type: ignore[attr-defined]
    content = published_content(trained_model())
    content["hyper_parameters"]["loss"] = loss()
    with monkeypatch.context() as installed:
        for name in ("openretina", "openretina.modules", "openretina.modules.losses"):
            installed.setitem(sys.modules, name, types.ModuleType(name))
        installed.setitem(sys.modules, module.__name__, module)
        path = write_checkpoint(tmp_path / "a.ckpt", content)
    assert load_core_readout_model(path, "cpu").lag == 30
    record = read_checkpoint(path)["hyper_parameters"]["loss"]
    assert repr(record) == "<openretina.modules.losses.poisson.PoissonLoss3d>"


def test_classes_of_ours_in_the_published_layout_are_taken_as_they_are(tmp_path: Path) -> None:
    source = trained_model(hidden_padding="same", published_behaviour=False)
    content = published_content(source)
    for part in ("core", "readout"):
        config = OmegaConf.to_container(content["hyper_parameters"][part], resolve=True)
        config["_target_"] = config["_target_"].replace("openretina", "coread")
        content["hyper_parameters"][part] = config | ({"hidden_padding": "same"} if part == "core" else {})
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")
    stimulus = torch.rand(1, 2, 40, 18, 16)
    torch.testing.assert_close(model(stimulus), source(stimulus), rtol=0, atol=0)
    assert is_model_causal(model)


@pytest.mark.parametrize("published", sorted(PUBLISHED))
def test_every_published_class_has_one_of_ours(published: str) -> None:
    module, _, name = our_class(f"openretina.{published}").rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), torch.nn.Module)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    def load(**changes: Any) -> None:
        content = published_content(trained_model())
        content["hyper_parameters"] |= changes
        load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")

    unknown = {"_target_": "openretina.modules.core.vision_transformer.ViTCore"}
    with pytest.raises(CheckpointError, match=r"a\.ckpt: .*ViTCore', which is unknown here; known are .*SimpleCore"):
        load(core=OmegaConf.create(unknown))
    core = {"_target_": "openretina.modules.core.base_core.SimpleCoreWrapper", "stride": 2}
    with pytest.raises(CheckpointError, match="the core of the checkpoint has stride=2"):
        load(core=OmegaConf.create(core))
    with pytest.raises(CheckpointError, match=r"(?s)do not fit its architecture: .*size mismatch for core"):
        load(hidden_channels=(16, 8))
    with pytest.raises(CheckpointError, match="cannot be built: mean activity of 3 neurons for a readout of 7"):
        load(n_neurons_dict={**SIZES, "session_1_ventral1_20200226": 7})
    with pytest.raises(CheckpointError, match="lack in_shape"):
        load(in_shape=None)
    with pytest.raises(CheckpointError, match="describe neither a UnifiedCoreReadout"):
        load(core=None)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.ckpt: not a torch checkpoint"):
        load_core_readout_model(tmp_path / "a.ckpt", "cpu")


def test_torchscript_is_not_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "a.ckpt"))
    with pytest.raises(CheckpointError, match="not of one torch checkpoint"):
        load_core_readout_model(tmp_path / "a.ckpt", "cpu")


# ------------------------------------------------------------------------------------------------------------- crafted


def crafted(command: str) -> dict[str, tuple[Any, str]]:
    """Return objects that would run a command when unpickled, with the name that must be refused."""
    nested = Asks(functools.partial, os.system, command)
    return {
        "os.system": (Asks(os.system, command), r"asks for (posix|nt)\.system"),
        "eval": (Asks(builtins.eval, f"__import__('os').system({command!r})"), r"asks for builtins\.eval"),
        "exec": (Asks(builtins.exec, f"import os; os.system({command!r})"), r"asks for builtins\.exec"),
        "partial": (nested, r"asks for functools\.partial"),
        "getattr": (Asks(getattr, Asks(importlib.import_module, "os"), "system"), r"asks for builtins\.getattr"),
        "import": (Asks(importlib.import_module, "antigravity"), r"asks for importlib\.import_module"),
        "methodcaller": (Asks(operator.methodcaller, "system", command), r"asks for operator\.methodcaller"),
        "codec": (Asks(_codecs.encode, "uryyb", "rot13"), r"codec 'rot13'"),
        "lookup": (Asks(_codecs.lookup, "latin1"), r"asks for _codecs\.lookup"),
        "torch.load": (Asks(torch.load, "other.ckpt"), r"asks for torch\.serialization\.load"),
        "hub": (Asks(torch.hub.load, "owner/name", "model"), r"asks for torch\.hub\.load"),
    }


@pytest.mark.parametrize("name", sorted(crafted("")))
def test_a_crafted_checkpoint_is_refused_by_name(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    attack, message = crafted(f"touch {marker}")[name]
    content = published_content(trained_model())
    content["hyper_parameters"]["data_info"]["note"] = [attack]
    path = write_checkpoint(tmp_path / "crafted.ckpt", content)
    with pytest.raises(UnsafeCheckpointError, match=rf"crafted\.ckpt: the checkpoint .*{message}"):
        load_core_readout_model(path, "cpu")
    assert not marker.exists()
    write_checkpoint(tmp_path / LOW_RES_PATH, content)
    with pytest.raises(UnsafeCheckpointError, match=message):
        load_core_readout_from_remote(LOW_RES, "cpu", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch.serialization", "os.system"), ("torch", "serialization.os.system"), ("collections", "_sys.exit")],
)
def test_dotted_names_do_not_reach_through_allowed_modules(tmp_path: Path, module: str, name: str) -> None:
    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    marker = tmp_path / "marker"
    pickled = b"\x80\x04" + text(module) + text(name) + b"\x93" + text(f"touch {marker}") + b"\x85R."
    with pytest.raises(UnsafeCheckpointError, match=f"asks for {module}.{name}"):
        read_checkpoint(write_pickle(tmp_path / "crafted.ckpt", pickled))
    assert not marker.exists()


def test_arrays_are_read_and_cannot_point_into_memory(tmp_path: Path) -> None:
    arrays = {"f": np.arange(6.0).reshape(2, 3).T, "b": np.array([1, 2], ">i2"), "u": np.array(["a", "bc"])}
    arrays |= {"o": np.array([None, "x"], object), "s": np.float32(0.5)}
    read = plain_value(read_checkpoint(write_checkpoint(tmp_path / "a.ckpt", arrays)))
    assert {type(value) for value in read.values()} == {np.ndarray, np.float32}
    for name, value in arrays.items():
        np.testing.assert_array_equal(read[name], value)
    address = id(arrays).to_bytes(8, "little")
    # an array of objects over bytes of the file would take them for addresses
    asks = Asks(np.ndarray, (1,), np.dtype(object), address)
    read = read_checkpoint(write_checkpoint(tmp_path / "a.ckpt", {"array": asks}))
    assert isinstance(read["array"], InertRecord)
    fields = np.zeros(1, [("a", object)])
    with pytest.raises(UnsafeCheckpointError, match=r"asks for the dtype 'V8'"):
        read_checkpoint(write_checkpoint(tmp_path / "a.ckpt", {"array": fields}))


def test_a_checkpoint_cannot_alter_what_reads_it(tmp_path: Path) -> None:
    # BUILD with a state of slots: pickle sets attributes of what was named before
    for module, name in (("_codecs", "encode"), ("torch._utils", "_rebuild_tensor_v2"), ("builtins", "dict")):
        state = b"N}X\x05\x00\x00\x00_callX\x04\x00\x00\x00evils\x86b."
        pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + state
        with pytest.raises(CheckpointError):
            read_checkpoint(write_pickle(tmp_path / "crafted.ckpt", pickled))
    assert load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", published_content(trained_model())), "cpu")


def test_configs_cannot_name_programs(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def load(**core: Any) -> None:
        content = published_content(trained_model(), **core)
        load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", content), "cpu")

    with pytest.raises(CheckpointError, match=r"made of 'os\.system'"):
        load(_target_="os.system", command=f"touch {marker}")
    nested = {"_target_": "os.system", "_args_": [f"touch {marker}"]}
    with pytest.raises(UnsafeCheckpointError, match=r"asks for os\.system"):
        load(gamma_input=nested)
    OmegaConf.register_new_resolver("run_a_command", lambda _: marker.touch(), replace=True)
    with pytest.raises(UnsafeCheckpointError, match=r"asks for \$\{run_a_command:now\}"):
        load(gamma_input="${run_a_command:now}")
    with pytest.raises(CheckpointError, match=r"refers to \$\{nowhere\}"):
        load(gamma_input="${nowhere}")
    assert not marker.exists()


def test_a_crafted_member_is_refused_by_name(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = {"_target_": "os.system", "_args_": [f"touch {marker}"]}
    through = {"_target_": "coread.distributed.os.system", "_args_": [f"touch {marker}"]}
    builder = {"_target_": "coread.models.member.build_model", "config": {}, "data_info": {}}
    for loss, name in ((command, r"os\.system"), (through, r"coread\.distributed\.os"), (builder, "build_model")):
        content = {
            "format_version": 1,
            "config": {"model": {}, "loss": loss, "optimizer": {}, "lr_scheduler": {}},
            "state_dict": {},
        }
        path = write_checkpoint(tmp_path / "model.ckpt", content)
        with pytest.raises(UnsafeCheckpointError, match=rf"model\.ckpt: the settings of the model ask for .*{name}"):
            load_core_readout_model(path, "cpu")
        with pytest.raises(MemberError, match=rf"model\.ckpt: the settings of the model ask for .*{name}"):
            load_member(path)
    assert not marker.exists()


def test_the_registry_is_no_experiment() -> None:
    assert yaml.safe_load((REPOSITORY / "configs/pretrained/released.yaml").read_text())["source"]["url"].startswith(
        "https://"
    )
