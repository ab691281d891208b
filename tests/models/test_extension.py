"""New sessions on an old core: the core stays as it is, to the bit; what does not fit is refused with both sides."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from coread.cli.main import main
from coread.cli.train import _start_from_trained_model
from coread.config import ConfigError, canonical_text, compose, stage_slice
from coread.data_io.tutorial_data import create_data
from coread.models import add_sessions, load_core_readout_model, load_member
from coread.models.extension import CoreMismatchError, copy_core, model_digest
from coread.models.member import Member, build_model, session_sizes
from coread.signatures import deciding_code
from coread.training import train
from tests.conftest import REPOSITORY, fabricate_recording
from tests.models.published_checkpoint import SIZES, published_content, trained_model, write_checkpoint
from tests.test_training import SETTINGS

QUICK = {**SETTINGS, "trainer": {"max_epochs": 2}}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Member, Path]:
    """A member trained on session a."""
    folder = tmp_path_factory.mktemp("old")
    member = train(QUICK, [fabricate_recording("a")], 0, 0, work_dir=folder / "work", accelerator="cpu")
    member.save(folder / "model.ckpt")
    return member, folder / "model.ckpt"


def starting_from(path: Path, settings: dict[str, Any] = QUICK, **changes: Any) -> dict[str, Any]:
    core = {"_target_": "coread.models.extension.PretrainedCore", "model": "old", "sha256": model_digest(path)}
    return {**settings, "pretrained_core": {**core, **changes}}


def extend(path: Path, recordings: list[Any], work_dir: Path, **changes: Any) -> Member:
    settings = starting_from(path, **changes)
    return train(settings, recordings, 0, 0, work_dir=work_dir, accelerator="cpu", model_files={"old": path})


def core_state(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.core.state_dict().items()  # type: ignore[union-attr]
    yield from model.core.named_buffers()  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------ training


def test_a_frozen_core_stays_as_it_is_and_readouts_learn(old: tuple[Member, Path], tmp_path: Path) -> None:
    trained, path = old
    brighter = fabricate_recording("b", n_neurons=1, seed=3)
    brighter = replace(brighter, stimuli={n: replace(s, offset=100.0) for n, s in brighter.stimuli.items()})
    member = extend(path, [brighter], tmp_path / "work")
    before = dict(core_state(trained.model))
    after = dict(core_state(member.model))
    assert before.keys() == after.keys()
    assert any("running_mean" in name for name in before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert member.model.readout.readout_keys() == ["b"]
    start = extend(path, [brighter], tmp_path / "start", settings={**QUICK, "trainer": {"max_epochs": 1}})
    for name, value in member.model.readout.named_parameters():
        assert not torch.equal(value, dict(start.model.readout.named_parameters())[name]), name
    # the normalisation of the old stimuli is kept, not fitted again on stimuli that are brighter
    assert member.data_info["stim_mean"] == trained.data_info["stim_mean"]
    assert member.data_info["stim_std"] == trained.data_info["stim_std"]
    assert member.data_info["mean_activity_dict"].keys() == {"b"}


def test_the_extended_member_is_saved_and_read_as_any_other(old: tuple[Member, Path], tmp_path: Path) -> None:
    _, path = old
    member = extend(path, [fabricate_recording("b", seed=3)], tmp_path / "work")
    member.save(tmp_path / "model.ckpt")
    stimulus = torch.rand(member.model.stimulus_shape(20))
    again = load_member(tmp_path / "model.ckpt").model
    assert torch.equal(again(stimulus, "b"), member.model(stimulus, "b"))
    assert torch.equal(load_core_readout_model(tmp_path / "model.ckpt", "cpu")(stimulus), again(stimulus))


def test_an_unfrozen_core_starts_there_and_learns(old: tuple[Member, Path], tmp_path: Path) -> None:
    trained, path = old
    member = extend(path, [fabricate_recording("b", seed=3)], tmp_path / "work", freeze=False)
    weight = member.model.core.features[0].conv.weight_spatial
    start = trained.model.core.features[0].conv.weight_spatial
    assert not torch.equal(weight, start)
    assert torch.corrcoef(torch.stack([weight.flatten(), start.flatten()]))[0, 1] > 0.5
    running = "core.features.layer0.norm.running_mean"
    assert not torch.equal(member.model.state_dict()[running], trained.model.state_dict()[running])


def test_a_killed_extension_goes_on_to_the_same_weights(old: tuple[Member, Path], tmp_path: Path) -> None:
    _, path = old
    recordings = [fabricate_recording("b", seed=3)]
    whole = extend(path, recordings, tmp_path / "whole")

    class KilledError(Exception):
        pass

    from pytorch_lightning.callbacks import Callback

    class KillSecondEpoch(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise KilledError

    arguments = {"work_dir": tmp_path / "killed", "accelerator": "cpu", "model_files": {"old": path}}
    with pytest.raises(KilledError):
        train(starting_from(path), recordings, 0, 0, callbacks=[KillSecondEpoch()], **arguments)
    resumed = train(starting_from(path), recordings, 0, 0, **arguments)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_architecture_is_that_of_the_trained_core(
    old: tuple[Member, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained, path = old
    model = {**QUICK["model"], "hidden_channels": [7]}
    model["core"] = {**QUICK["model"]["core"], "spatial_kernel_sizes": [5], "gamma_input": 0.5}
    member = extend(path, [fabricate_recording("b", seed=3)], tmp_path / "work", settings={**QUICK, "model": model})
    assert member.model.core.convolutions[0].kernel_size == trained.model.core.convolutions[0].kernel_size
    assert member.config["model"]["hidden_channels"] == [3]
    assert member.model.core.gamma_input == 0.5  # how it is trained is the experiment's
    assert "the core of old replaces model.core of the experiment: other spatial_kernel_sizes" in caplog.text


def test_a_hundred_sessions_take_a_step(old: tuple[Member, Path], tmp_path: Path) -> None:
    _, path = old
    recordings = [
        fabricate_recording(f"s{i:03}", n_neurons=1 + i % 2, n_trials=3, trial_length=30, n_repeats=1, seed=i)
        for i in range(100)
    ]
    splits = {**QUICK["splits"], "clip_length": 15}
    settings = {**QUICK, "splits": splits, "trainer": {"max_epochs": 1}, "initialization": {"method": "none"}}
    settings["dataloader"] = {**QUICK["dataloader"], "window_length": 10, "batch_size": 64}
    settings["quality_checks"] = {"allow_constant_neurons": True}
    member = extend(path, recordings, tmp_path / "work", settings=settings)
    assert len(member.model.readout.readout_keys()) == 100
    assert member.history["train_loss"].notna().all()


def test_what_does_not_fit_is_refused_with_both_sides(old: tuple[Member, Path], tmp_path: Path) -> None:
    _, path = old
    with pytest.raises(CoreMismatchError, match=r"stimuli of .* \(1, 6, 8\), the new recordings have \(2, 6, 8\)"):
        extend(path, [fabricate_recording("b", shape=(2, 6, 8))], tmp_path / "work")
    with pytest.raises(CoreMismatchError, match=r"\(1, 6, 8\), the new recordings have \(1, 7, 8\)"):
        extend(path, [fabricate_recording("b", shape=(1, 7, 8))], tmp_path / "work")
    fast = replace(fabricate_recording("b"), rate_hz=75.0)
    with pytest.raises(CoreMismatchError, match=r"trained at rate_hz 30\.0, the new recordings have 75\.0"):
        extend(path, [fast], tmp_path / "work")
    with pytest.raises(CoreMismatchError, match=r"pretrained_core.model old .* its sha256 is .* settings say 0000"):
        extend(path, [fabricate_recording("b")], tmp_path / "work", sha256="0" * 64)
    with pytest.raises(ValueError, match="there is no such file or folder"):
        train(starting_from(path), [fabricate_recording("b")], 0, 0, work_dir=tmp_path, model_files={})
    wide = trained_model(spatial_kernel_sizes=[9, 5])
    with pytest.raises(CoreMismatchError, match=r"weight_spatial is \(16, 2, 1, 11, 11\) in .* and \(16, 2, 1, 9, 9\)"):
        copy_core(trained_model(), wide)


def test_where_models_lie_can_stand_in_the_environment(
    old: tuple[Member, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = old
    monkeypatch.setenv("COREAD_MODEL_FILES", json.dumps({"old": str(path)}))
    settings = {**starting_from(path), "trainer": {"max_epochs": 1}}
    member = train(settings, [fabricate_recording("b")], 0, 0, work_dir=tmp_path / "work", accelerator="cpu")
    assert "old" in member.config["pretrained_core"]["model"]
    assert str(path) not in json.dumps(member.config)


# ------------------------------------------------------------------------------------------------------- published core


def test_a_published_model_takes_new_sessions(tmp_path: Path) -> None:
    source = trained_model()
    model = load_core_readout_model(write_checkpoint(tmp_path / "a.ckpt", published_content(source)), "cpu")
    before = {name: value.clone() for name, value in core_state(model)}
    rates = torch.tensor([0.5, 2.0, 0.1])
    add_sessions(model, {"mine": 3}, {"mine": rates})
    assert not model.training
    stimulus = torch.rand(2, 2, 40, 18, 16)
    torch.testing.assert_close(torch.nn.functional.softplus(model.readout["mine"].bias), rates)
    for session in SIZES:
        assert torch.equal(model(stimulus, session), source(stimulus, session))
    assert model.data_info["n_neurons_dict"] == {**SIZES, "mine": 3}
    assert model.data_info["response_scale"]["mine"].tolist() == [1.0] * 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train()
    start = model.readout["mine"]._features.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        (model(stimulus, "mine").square().mean() + model.regularizer("mine")).backward()
        optimizer.step()
    assert not torch.equal(model.readout["mine"]._features, start)
    for name, value in core_state(model):
        assert torch.equal(value, before[name]), name
    with pytest.raises(ValueError, match=r"sessions \['mine'\] already have a readout"):
        add_sessions(model, {"mine": 3})


def test_data_info_takes_new_sessions_and_keeps_the_normalisation() -> None:
    model = trained_model()
    model.data_info |= {"stim_mean": 3.0, "stim_std": 2.0, "n_neurons_dict": dict(SIZES)}
    model.update_model_data_info(
        {"n_neurons_dict": {"mine": 3}, "stim_mean": 7.0, "stim_std": 1.0, "input_shape": (2, 18, 16), "area": "retina"}
    )
    assert model.data_info["n_neurons_dict"] == {**SIZES, "mine": 3}
    assert (model.data_info["stim_mean"], model.data_info["stim_std"], model.data_info["area"]) == (3.0, 2.0, "retina")
    with pytest.raises(ValueError, match=r"stimuli of \[2, 18, 16\], the new data have \[2, 18, 18\]"):
        model.update_model_data_info({"input_shape": (2, 18, 18)})


# ---------------------------------------------------------------------------------- what a session has of its own there

PLAIN = QUICK["model"]["core"]
TWO_LAYERS = {"temporal_kernel_sizes": [4, 3], "spatial_kernel_sizes": [3, 3]}
CONDITIONED = {
    "_target_": "coread.modules.core.gru_core.ConditionedGRUCore",
    "cond_dim": 2,
    **TWO_LAYERS,
    "use_gru": True,
    "gru_kwargs": {"rec_channels": 2, "input_kern": 3, "rec_kern": 3},
}
OWN_PARTS = {
    "log speeds": {**PLAIN, **TWO_LAYERS, "learn_session_log_speed": True},
    "conditions": CONDITIONED,
    "both": {**CONDITIONED, "batch_adaptation": True},
}


def settings_of(core: str) -> dict[str, Any]:
    return {**QUICK, "model": {**QUICK["model"], "hidden_channels": [3, 2], "core": OWN_PARTS[core]}}


def written(path: Path, core: str, *sessions: str) -> Path:
    """Write a member of some sessions none of whose weights is where it starts."""
    settings = settings_of(core)
    info = {"stim_mean": 127.0, "stim_std": 74.0}
    torch.manual_seed(0)
    model = build_model(settings, session_sizes([fabricate_recording(session) for session in sessions]) | info)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 + 0.1 * torch.rand_like(parameter))
    Member(model.eval(), settings, 0, 0, model.data_info).save(path)
    return path


def own_of(model: Any, session: str) -> dict[str, torch.Tensor]:
    own = model.core.session_parameters()
    return {name: value for name, value in own.items() if name.endswith((f"log_speed_{session}", f".{session}"))}


@pytest.mark.parametrize("core", list(OWN_PARTS))
@pytest.mark.parametrize("freeze", [True, False])
def test_new_sessions_start_neutral_in_the_core_and_learn_their_part(tmp_path: Path, core: str, freeze: bool) -> None:
    path = written(tmp_path / "old.ckpt", core, "a", "b")
    old = load_member(path).model
    new = build_model(settings_of(core), session_sizes([fabricate_recording(session) for session in ("b", "c")]))
    copy_core(old, new)
    assert own_of(new, "c")
    assert all((value == 0).all() for value in own_of(new, "c").values())
    for name, value in own_of(new, "b").items():
        assert torch.equal(value, own_of(old, "b")[name])  # of a session that the core knows
        assert (value != 0).any()
    member = extend(
        path, [fabricate_recording("c", seed=3)], tmp_path / "work", settings=settings_of(core), freeze=freeze
    )
    assert all((value != 0).any() for value in own_of(member.model, "c").values())
    assert not own_of(member.model, "a")
    before, after = old.core.state_dict(), member.model.core.state_dict()
    shared = before.keys() - old.core.session_parameters().keys()
    assert shared == after.keys() - member.model.core.session_parameters().keys()
    assert all(torch.equal(before[name], after[name]) for name in shared) is freeze
    member.save(tmp_path / "new.ckpt")
    stimulus = torch.rand(member.model.stimulus_shape(20))
    assert torch.equal(load_member(tmp_path / "new.ckpt").model(stimulus, "c"), member.model(stimulus, "c"))


@pytest.mark.parametrize("core", list(OWN_PARTS))
def test_added_sessions_have_their_own_part_of_the_core(tmp_path: Path, core: str) -> None:
    member = load_member(written(tmp_path / "old.ckpt", core, "a"))
    model = member.model
    stimulus = torch.rand(model.stimulus_shape(20))
    before = model(stimulus, "a")
    for session in ("c", "d"):
        add_sessions(model, {session: 3})
    assert torch.equal(model(stimulus, "a"), before)
    assert all((value == 0).all() and value.requires_grad for value in own_of(model, "c").values())
    trained = {name for name, value in model.core.named_parameters(remove_duplicate=False) if value.requires_grad}
    assert trained == model.core.session_parameters().keys()
    model(stimulus, "c").square().sum().backward()
    assert all((value.grad != 0).any() for value in own_of(model, "c").values())
    with torch.no_grad():
        for value in own_of(model, "c").values():
            value.fill_(0.3)
    Member(model, member.config, 0, 0, model.data_info).save(tmp_path / "new.ckpt")
    again = load_member(tmp_path / "new.ckpt").model
    for session in "acd":
        assert torch.equal(again(stimulus, session), model(stimulus, session))


# -------------------------------------------------------------------------------------------------------- command line


def test_the_group_has_to_be_filled_in(tmp_path: Path) -> None:
    config = compose("hdf5_core_readout", ["+pretrained_core=default"])
    with pytest.raises(ConfigError, match=r"pretrained_core\.(model|sha256) has no value"):
        stage_slice(config, "train")
    chosen = ["+pretrained_core=default", "pretrained_core.model=m", "pretrained_core.sha256=a", "exp_name=e"]
    assert stage_slice(compose("hdf5_core_readout", chosen), "train")["pretrained_core"]["freeze"] is True
    assert "pretrained_core" not in stage_slice(compose("hdf5_core_readout"), "train")


def test_only_experiments_that_start_from_a_core_depend_on_the_code_that_reads_it(old: tuple[Member, Path]) -> None:
    script = REPOSITORY / "workflow_scripts" / "train.py"
    with_core, without = (
        {path.stem for path in deciding_code(script, canonical_text(settings))}
        for settings in (starting_from(old[1]), QUICK)
    )
    assert with_core >= {"extension", "safe_pickle"}
    assert not without & {"extension", "safe_pickle"}


@pytest.mark.slow
def test_coread_train_starts_from_a_trained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    create_data(tmp_path / "data", num_stimuli=4, num_sessions=1, clip_length=10)
    common = ["--config-name", "hdf5_core_readout", "paths.data_dir=data", "splits.clip_length=60"]
    common += ["trainer.max_epochs=1", "splits.n_folds=3"]
    main(["train", *common, "exp_name=first"])
    first = tmp_path / "results/first/fold0/seed0/model.ckpt"
    main(["train", *common, "exp_name=second", f"paths.load_model_path={first}"])
    main(["train", *common, "exp_name=third", f"paths.load_model_path={first}", "only_train_readout=false"])
    one, two, three = (
        load_member(tmp_path / f"results/{name}/fold0/seed0/model.ckpt") for name in ("first", "second", "third")
    )
    for name, value in core_state(one.model):
        assert torch.equal(dict(core_state(two.model))[name], value), name
    weight = "core.features.layer0.conv.conv.weight"
    assert not torch.equal(three.model.state_dict()[weight], one.model.state_dict()[weight])
    assert two.config["pretrained_core"]["sha256"] == model_digest(first)
    assert str(tmp_path) not in json.dumps(two.config)


def test_a_core_that_is_null_is_none_that_was_chosen(old: tuple[Member, Path]) -> None:
    config = OmegaConf.create({"paths": {"load_model_path": str(old[1])}, "only_train_readout": True})
    for settings in ({"pretrained_core": None}, {}):
        assert _start_from_trained_model(settings, config) == {"model.ckpt": old[1]}
        assert settings["pretrained_core"]["sha256"] == model_digest(old[1])
    config.paths.load_model_path = None
    settings = {"pretrained_core": None}
    assert _start_from_trained_model(settings, config) is None
    assert settings == {"pretrained_core": None}


def test_a_model_file_cannot_name_a_program_as_its_core(old: tuple[Member, Path], tmp_path: Path) -> None:
    content = torch.load(old[1], weights_only=True)
    marker = tmp_path / "marker"
    command = {"_target_": "builtins.dict", "run": {"_target_": "os.mkdir", "path": str(marker)}}
    # a class that keeps no model config of its own, so that the file's is left
    model = {
        "_target_": "coread.models.linear_nonlinear.SingleCellSeparatedLNP",
        "spat_kernel_size": [3, 3],
        "temporal_kernel_size": 3,
    }
    info = {**content["data_info"], "model_config": {"hidden_channels": [2], "core": command, "readout": {}}}
    config = {**content["config"], "model": model}
    built = build_model(config, info)
    path = tmp_path / "model.ckpt"
    torch.save({**content, "config": config, "data_info": info, "state_dict": built.state_dict()}, path)
    with pytest.raises(CoreMismatchError, match=r"old: .*asks for builtins\.dict, which is refused"):
        extend(path, [fabricate_recording("b")], tmp_path / "work")
    assert not marker.exists()
