"""Published members: what the folder says, that it loads bit-equal, that altered or crafted folders are refused."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coread.cli.main import main
from coread.config import canonical_text
from coread.eval.predictions import predict, predict_member
from coread.eval.scores import score_experiment, write_scores
from coread.models import EnsembleModel, load_core_readout_model, load_ensemble, load_member
from coread.models.member import Member, build_model, session_sizes
from coread.models.pretrained import CheckpointError, UnsafeCheckpointError, find_model_file
from coread.models.pretrained.folder import read_member
from coread.models.publish import PublishError, Statement, publish
from coread.provenance import file_sha256
from coread.recording import content_digest, write_recording
from coread.training import train
from tests.conftest import REPOSITORY, fabricate_recording
from tests.models.published_checkpoint import SIZES, trained_model
from tests.test_training import SETTINGS

EVALUATION = {"explainable_variance_threshold": 0.0, "bootstrap": {"n": 50, "level": 0.95, "seed": 0}}
STATEMENT = Statement("a retina", "CC-BY-4.0", "A. Author")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained members, their scores and the checksums of their data, where the workflow has them."""
    folder = tmp_path_factory.mktemp("published") / "results"
    recordings = [fabricate_recording("a"), fabricate_recording("b", n_neurons=2, seed=1)]
    predictions = []
    for fold, seed in ((0, 0), (1, 5)):
        settings = {**SETTINGS, "trainer": {"max_epochs": 1}}
        settings["dataloader"] = {**SETTINGS["dataloader"], "response_scale": "std"}
        member = train(settings, recordings, fold, seed, work_dir=folder / "work", accelerator="cpu")
        member.recordings = {"a": "11" * 32}  # of b it does not say
        member.save(folder / "toy" / f"fold{fold}" / f"seed{seed}" / "model.ckpt")
        predictions.append(predict_member(member, recordings, experiment="toy", data_changed=True))
    write_scores(score_experiment(recordings, predictions, EVALUATION), folder / "toy" / "scores.csv")
    data = folder / "data" / "fabricated"
    data.mkdir(parents=True)
    (data / "a.sha256").write_text("11" * 32 + "\n")
    (data / "a.source.json").write_text(json.dumps([{"name": "a.h5", "size": 1, "mtime_ns": 0, "sha256": "22" * 32}]))
    (data / "config.yaml").write_text("source: {licence: CC0, citation: 'Toy et al. 2020'}\n")
    return folder


def member_file(results: Path, fold: int = 0, seed: int = 0) -> Path:
    return results / "toy" / f"fold{fold}" / f"seed{seed}" / "model.ckpt"


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_a_published_member_predicts_bit_for_bit_what_the_member_does(results: Path, tmp_path: Path) -> None:
    folder = publish([member_file(results)], tmp_path / "out", STATEMENT)
    original, published = load_member(member_file(results)), read_member(folder)
    recordings = [fabricate_recording("a"), fabricate_recording("b", n_neurons=2, seed=1)]
    one, other = (
        predict_member(member, recordings, experiment="toy", data_changed=True) for member in (original, published)
    )
    for session in ("a", "b"):
        np.testing.assert_array_equal(one.sessions[session].prediction, other.sessions[session].prediction)
    model = load_core_readout_model(folder, "cpu")
    assert not model.training
    stimulus = torch.rand(model.stimulus_shape(20))
    assert torch.equal(model(stimulus), original.model(stimulus))
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    registered = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    persistent = set(original.model.state_dict()) & registered
    assert set(load_file(folder / "model.safetensors")) == persistent


CORE = SETTINGS["model"]["core"]
READOUTS = "coread.modules.readout.multi_readout"
SHARING = {
    "clones": {"readout": {"_target_": f"{READOUTS}.MultiGaussianMaskReadout", "clone_readout": True}},
    "clones of a grid": {"readout": {"_target_": f"{READOUTS}.MultiGaussianReadoutWrapper", "clone_readout": True}},
    "features": {
        "readout": {
            "_target_": f"{READOUTS}.MultiSampledGaussianReadout",
            "shared_features": {"match_column": "unit_id"},
        }
    },
    "log speeds": {
        "hidden_channels": [3, 2],
        "core": {
            **CORE,
            "temporal_kernel_sizes": [4, 3],
            "spatial_kernel_sizes": [3, 3],
            "learn_session_log_speed": True,
        },
    },
}


@pytest.mark.parametrize("shared", list(SHARING))
def test_what_sessions_share_is_published_and_shared_again(tmp_path: Path, shared: str) -> None:
    settings = {**SETTINGS, "model": {**SETTINGS["model"], **SHARING[shared]}}
    sizes = session_sizes(
        [fabricate_recording("a"), fabricate_recording("b", seed=1), fabricate_recording("c", seed=2)]
    )
    model = build_model(settings, sizes | {"stim_mean": 0.5, "stim_std": 2.0}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))  # nothing is where it starts
    member = tmp_path / "results" / "toy" / "fold0" / "seed0" / "model.ckpt"
    Member(model, settings, 0, 0, model.data_info).save(member)
    back = load_core_readout_model(publish([member], tmp_path / "out", STATEMENT), "cpu")
    stimulus = torch.rand(model.stimulus_shape(20))
    for session in "abc":
        assert torch.equal(back(stimulus, session), model(stimulus, session))
    kept = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {name: parameter.shape for name, parameter in back.named_parameters()} == kept
    assert len(kept) < len(
        list(model.named_parameters(remove_duplicate=False))
    )  # each is there once, under all its names


def test_a_published_member_says_where_it_comes_from(results: Path, tmp_path: Path) -> None:
    scores = results / "toy" / "scores.csv"
    config = read_config(publish([member_file(results)], tmp_path / "out", STATEMENT, scores=scores))
    original = load_member(member_file(results))
    assert (config["fold"], config["seed"], config["licence"], config["author"]) == (0, 0, "CC-BY-4.0", "A. Author")
    assert config["train"] == original.config
    assert config["weights"]["sha256"] == file_sha256(tmp_path / "out" / "model.safetensors")
    assert config["weights"]["member_sha256"] == file_sha256(member_file(results))
    assert config["data"]["licence"] == "CC0"
    assert config["data"]["sessions"]["a"] == {"sha256": "11" * 32, "raw_files": {"a.h5": "22" * 32}}
    assert config["data"]["sessions"]["b"] == {"sha256": None, "raw_files": {}}
    assert config["data_info"]["stim_mean"] == original.data_info["stim_mean"]
    assert config["data_info"]["trained_with"]["torch"] == torch.__version__
    assert config["published_with"]["torch"]


def test_checksums_are_those_of_the_recordings_in_the_training(results: Path, tmp_path: Path) -> None:
    member = load_member(member_file(results))
    assert member.recordings == {"a": "11" * 32}
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.sha256").write_text("33" * 32 + "\n")
    (data / "a.source.json").write_text(json.dumps([{"name": "a.h5", "size": 1, "mtime_ns": 0, "sha256": "44" * 32}]))
    members = [member_file(results), member_file(results, 1, 5)]
    for published in (members[:1], members):
        with pytest.raises(PublishError, match=f"data/a.sha256: .*{'33' * 32}, that of the training {'11' * 32}"):
            publish(published, tmp_path / "out", STATEMENT, data=data)
    assert not (tmp_path / "out").exists()
    main(["publish", "--member", str(members[0]), "--to", str(tmp_path / "out"), "--data", str(data), "--data-changed"])
    # the raw files that are there now are not those of the training
    assert read_config(tmp_path / "out")["data"]["sessions"]["a"] == {"sha256": "11" * 32, "raw_files": {}}
    assert "had changed since, for 1 of 2 session(s): a." in (tmp_path / "out" / "README.md").read_text()
    assert read_member(tmp_path / "out").recordings == member.recordings
    (data / "a.sha256").unlink()  # nothing to compare with
    config = read_config(publish(members[:1], tmp_path / "elsewhere", STATEMENT, data=data))
    assert config["data"]["sessions"]["a"]["sha256"] == "11" * 32


def test_the_workflow_keeps_what_a_member_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = ("a", "b")
    recordings = [str(tmp_path / f"{session}.h5") for session in sessions]
    for session in sessions:
        write_recording(fabricate_recording(session), tmp_path / f"{session}.h5")
    (tmp_path / "train.yaml").write_text(canonical_text({**SETTINGS, "trainer": {"max_epochs": 1}}))
    words = ["--config", str(tmp_path / "train.yaml"), "--recordings", *recordings]
    words += ["--fold", "0", "--seed", "0", "--memory-mb", "1000", "--log-dir", str(tmp_path / "logs")]
    script = str(REPOSITORY / "workflow_scripts" / "train.py")
    monkeypatch.setattr(sys, "argv", [script, *words, "--output", str(tmp_path / "out" / "model.ckpt")])
    runpy.run_path(script, run_name="__main__")
    kept = load_member(tmp_path / "out" / "model.ckpt").recordings
    assert kept == {session: content_digest(fabricate_recording(session)) for session in sessions}


def test_a_member_that_does_not_say_what_it_was_trained_on_is_published_so(results: Path, tmp_path: Path) -> None:
    content = torch.load(member_file(results), weights_only=True)
    del content["recordings"]  # as earlier versions wrote it
    old = tmp_path / "toy" / "fold0" / "seed0" / "model.ckpt"
    old.parent.mkdir(parents=True)
    torch.save(content, old)
    assert load_member(old).recordings == {}
    folder = publish([old], tmp_path / "out", STATEMENT, data=results / "data" / "fabricated")
    assert read_config(folder)["data"]["sessions"] == {name: {"sha256": None, "raw_files": {}} for name in "ab"}
    assert "unknown, because the member does not keep them, for 2 of 2" in (folder / "README.md").read_text()


def test_scores_are_those_of_the_member(results: Path, tmp_path: Path) -> None:
    import pandas as pd

    table = pd.read_csv(results / "toy" / "scores.csv")
    for fold, seed in ((0, 0), (1, 5)):
        folder = publish(
            [member_file(results, fold, seed)], tmp_path / f"{fold}", STATEMENT, scores=results / "toy/scores.csv"
        )
        own = table[(table["predictor"] == f"fold{fold}_seed{seed}") & (table["stimulus"] == "test")]
        expected = own[own["included"] & (own["metric"] == "single_trial_correlation")]["value"].dropna()
        (row,) = (
            row
            for row in read_config(folder)["scores"]
            if (row["stimulus"], row["metric"]) == ("test", "single_trial_correlation")
        )
        assert row["mean"] == pytest.approx(expected.mean())
        assert row["n"] == len(expected)
        assert row["ci_low"] <= row["mean"] <= row["ci_high"]
        assert f"| test | single-trial correlation | {row['mean']:.3f} |" in (folder / "README.md").read_text()


def test_the_card_tells_what_a_reader_needs(results: Path, tmp_path: Path) -> None:
    card = (publish([member_file(results)], tmp_path / "out", STATEMENT) / "README.md").read_text()
    for part in (
        "license: cc-by-4.0",
        "# a retina",
        "2 session(s), 6 neurons",
        "spike count at 30.0 Hz",
        "6 x 8 pixels",
        "Licence of the data: CC0",
        "Cite: Toy et al. 2020",
        "unknown, because the member does not keep them, for 1 of 2 session(s): b.",
        "`SimpleCoreWrapper` | temporal_kernel_sizes [4]",
        "3 bins (100 ms)",
        "load_core_readout_model",
        "## Limits",
    ):
        assert part in card, part


def test_an_ensemble_has_a_folder_for_each_member(results: Path, tmp_path: Path) -> None:
    members = [member_file(results), member_file(results, 1, 5)]
    folder = publish(members, tmp_path / "out", STATEMENT, scores=results / "toy/scores.csv")
    config = read_config(folder)
    for name, path in zip(("fold0_seed0", "fold1_seed5"), members, strict=True):
        assert config["members"][name]["sha256"] == file_sha256(folder / "members" / name / "config.json")
        stimulus = torch.rand(1, 1, 20, 6, 8)
        model = load_core_readout_model(folder / "members" / name, "cpu")
        assert torch.equal(model(stimulus), load_member(path).model(stimulus))
    assert {row["metric"] for row in config["scores"]} > {"single_trial_correlation", "noise_ceiling"}
    assert "An ensemble of 2" in (folder / "README.md").read_text()
    assert 'load_ensemble("FOLDER", "cpu")' in (folder / "README.md").read_text()
    with pytest.raises(CheckpointError, match="an ensemble: use load_ensemble"):
        load_core_readout_model(folder, "cpu")
    with pytest.raises(CheckpointError, match="no published ensemble"):
        load_ensemble(folder / "members" / "fold0_seed0", "cpu")


def test_a_loaded_ensemble_predicts_the_mean_of_its_members(results: Path, tmp_path: Path) -> None:
    paths = [member_file(results), member_file(results, 1, 5)]
    ensemble = load_ensemble(publish(paths, tmp_path / "out", STATEMENT), "cpu")
    members = [load_member(path) for path in paths]
    assert members[0].data_info["stim_mean"] != members[1].data_info["stim_mean"]  # folds see other movies
    assert not ensemble.training
    recording = fabricate_recording("a")
    predicted = predict(ensemble, recording, ensemble.data_info)
    each = [predict(member.model, recording, member.data_info) for member in members]
    np.testing.assert_allclose(predicted, np.mean(each, axis=0), rtol=1e-5, atol=1e-6)
    stimulus = torch.rand(ensemble.stimulus_shape(20))
    torch.testing.assert_close(ensemble(stimulus)[..., 4:], ensemble(stimulus, "b"))
    (tmp_path / "out/members/fold0_seed0/config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="missing, or not the one that"):
        load_ensemble(tmp_path / "out", "cpu")


def test_an_ensemble_is_of_equal_members() -> None:
    one = trained_model()
    other = trained_model()
    other.data_info = {**other.data_info, "input_shape": [2, 20, 16]}
    for model in (one, other):
        model.data_info["n_neurons_dict"] = dict(SIZES)
    with pytest.raises(ValueError, match=r"share \(channel, height, width\), found \[2, 18, 16\] and \[2, 20, 16\]"):
        EnsembleModel(one, other)
    with pytest.raises(ValueError, match="needs a member"):
        EnsembleModel()


def test_altered_weights_are_refused(results: Path, tmp_path: Path) -> None:
    folder = publish([member_file(results)], tmp_path / "out", STATEMENT)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the weights were altered: sha256 is"):
        load_core_readout_model(folder, "cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="the weights are missing"):
        load_core_readout_model(folder, "cpu")


def test_a_crafted_config_is_refused_by_name(results: Path, tmp_path: Path) -> None:
    folder = publish([member_file(results)], tmp_path / "out", STATEMENT)
    config = read_config(folder)
    marker = tmp_path / "marker"
    config["train"]["loss"] = {"_target_": "os.system", "_args_": [f"touch {marker}"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsafeCheckpointError, match=r"config\.json: the settings of the model ask for os\.system"):
        load_core_readout_model(folder, "cpu")
    assert not marker.exists()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no published model"):
        load_core_readout_model(folder, "cpu")


def test_a_folder_is_never_overwritten_unasked_and_never_half_there(results: Path, tmp_path: Path) -> None:
    target = publish([member_file(results)], tmp_path / "out", STATEMENT)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(PublishError, match="exists: choose another folder"):
        publish([member_file(results)], target, STATEMENT)
    table = (results / "toy" / "scores.csv").read_text().replace("fold0_seed0", "fold9_seed9")
    (tmp_path / "scores.csv").write_text(table)
    with pytest.raises(PublishError, match=r"has no scores of \['fold0_seed0'\]"):
        publish([member_file(results)], target, STATEMENT, scores=tmp_path / "scores.csv", replace=True)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before  # a failure leaves what was there
    publish([member_file(results)], target, Statement("another name"), replace=True)
    assert read_config(target)["name"] == "another name"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scores.csv"]
    with pytest.raises(PublishError, match="two of the members are of one fold and seed"):
        publish([member_file(results)] * 2, tmp_path / "twice", STATEMENT)


def test_a_folder_of_other_work_is_not_replaced(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(PublishError, match="thesis is no published model, so it is not replaced"):
        publish([member_file(results)], target, STATEMENT, replace=True)
    assert [path.name for path in target.iterdir()] == ["precious.txt"]
    (target / "precious.txt").unlink()
    publish([member_file(results)], target, STATEMENT, replace=True)
    assert read_config(target)["format"] == "coread model 1"


def test_the_command_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["publish", "--member", str(member_file(results)), "--to", str(tmp_path / "retina")]
    main([*arguments, "--scores", str(results / "toy" / "scores.csv"), "--licence", "CC0-1.0", "--author", "B"])
    assert read_config(tmp_path / "retina")["name"] == "retina"
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 1
    assert "exists: choose another folder" in capsys.readouterr().err


def test_a_hub_name_is_taken_from_the_cache_or_fetched(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    folder = publish([member_file(results)], tmp_path / "out", STATEMENT)
    asked = []

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], bool(options.get("local_files_only")), options["cache_dir"]))
        if options.get("local_files_only") and not cached:
            raise FileNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    cached = False
    assert load_core_readout_model("owner/retina@v1", "cpu", tmp_path).lag == 3
    cached = True
    assert load_core_readout_model("owner/retina", "cpu", tmp_path).lag == 3
    cache = tmp_path / "hub"
    assert asked == [
        ("owner/retina", "v1", True, cache),
        ("owner/retina", "v1", False, cache),
        ("owner/retina", None, True, cache),
    ]


def test_a_half_fetched_copy_in_the_hub_cache_is_completed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    members = [member_file(results), member_file(results, 1, 5)]
    one, two = publish(members[:1], tmp_path / "one", STATEMENT), publish(members, tmp_path / "two", STATEMENT)
    from_cache = huggingface_hub.snapshot_download
    fetched = []

    def snapshot_download(repository: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return from_cache(repository, **options)
        fetched.append(repository)
        if offline:
            raise OSError("no network")
        shutil.copytree(tmp_path / repository.partition("/")[2], copy_of(repository), dirs_exist_ok=True)
        return str(copy_of(repository))

    def copy_of(repository: str) -> Path:
        return tmp_path / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / ("0" * 40)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for repository, source, lacking in (("o/one", one, "model.safetensors"), ("o/two", two, "members/fold1_seed5")):
        copy = copy_of(repository)
        shutil.copytree(source, copy)
        (copy.parents[1] / "refs").mkdir()
        (copy.parents[1] / "refs" / "main").write_text("0" * 40)
        assert find_model_file(repository, tmp_path) == copy  # whole: no network
        assert repository not in fetched
        shutil.rmtree(copy / lacking) if (copy / lacking).is_dir() else (copy / lacking).unlink()
        offline = True
        with pytest.raises(CheckpointError, match=f"{repository}: .*{'0' * 40} is no whole model, and not to be had"):
            find_model_file(repository, tmp_path)
        offline = False
        assert (find_model_file(repository, tmp_path) / lacking).exists()
    assert fetched == ["o/one", "o/one", "o/two", "o/two"]
    assert load_core_readout_model("o/one", "cpu", tmp_path).lag == 3


def test_without_huggingface_hub_a_hub_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="owner/retina: models of the hub need huggingface_hub"):
        load_core_readout_model("owner/retina", "cpu", tmp_path)
