"""The profiles: found by name after `make profiles`, resolved to the right executor, and nothing in them that bites."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.campaign import with_gpus

REPOSITORY = Path(__file__).resolve().parents[2]
RESOLVE = """
import json
from snakemake.cli import parse_args
_, arguments = parse_args(["--profile", "{name}", "all"])
print(json.dumps({{"executor": arguments.executor, "retries": str(arguments.retries), "cores": arguments.cores}}))
"""


RUNTIMES = """
from snakemake.resources import Resource
resource = Resource.from_cli_expression("runtime", "{value}")
for attempt in (1, 2, 3):
    print(resource.evaluate(wildcards=None, input=None, attempt=attempt, threads=1, rulename="", async_run=None).value)
"""


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a user whose Snakemake folder was set up with the README's line."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    subprocess.run(["make", "-s", "profiles"], cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


@pytest.mark.parametrize(("name", "executor"), [("slurm", "slurm"), ("local", None)])
def test_a_profile_is_found_by_its_name(user_folder: dict[str, str], name: str, executor: str | None) -> None:
    code = RESOLVE.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=user_folder, capture_output=True, text=True, check=True
    )
    resolved = json.loads(done.stdout)
    assert resolved["executor"] == executor
    assert int(resolved["retries"]) >= 1


def test_make_profiles_never_replaces_a_folder_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "snakemake" / "slurm").mkdir(parents=True)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(["make", "-s", "profiles"], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "move it away" in done.stderr


@pytest.mark.slow
def test_snakemake_profile_slurm_all_plans_the_whole_default(user_folder: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", "slurm", "all", "-n", "--directory", str(tmp_path)],
        cwd=REPOSITORY,
        env=user_folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rule in ("build_recording", "train_member", "predict_member", "score_experiment", "write_report"):
        assert f"rule {rule}:" in done.stdout + done.stderr


def test_there_is_no_default_profile_and_no_setting_that_bites() -> None:
    profiles = {
        path.parent.name: yaml.safe_load(path.read_text()) for path in REPOSITORY.glob("profiles/*/config*.yaml")
    }
    assert set(profiles) == {"local", "slurm"}
    for name, settings in profiles.items():
        assert "report" not in settings, name
        assert "slurm-array-jobs" not in settings, name
        assert "cpus_per_task" not in settings.get("default-resources", {}), name
        assert settings["retries"] >= 1, name


def _rules() -> dict[str, str]:
    """Text of every rule by its name."""
    text = "\n".join(path.read_text() for path in sorted(REPOSITORY.glob("rules/*.smk")))
    parts = re.split(r"^(?:local)?rule (\w+):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_group_of_jobs_takes_turns_and_its_size_is_said_by_the_profile() -> None:
    settings = yaml.safe_load((REPOSITORY / "profiles/slurm/config.v9+.yaml").read_text())
    found = {rule: re.search(r'^    group:\n        "(.+)"$', text, re.MULTILINE) for rule, text in _rules().items()}
    groups = {rule: group[1] for rule, group in found.items() if group}
    assert set(groups) == {"compute_sta", "predict_member", "join_analysis", "build_recording"}
    assert set(groups.values()) == set(settings["group-components"])
    for rule, group in groups.items():
        # one failing member or session holds up nothing of another experiment or dataset
        assert re.search(r"_\{(experiment|dataset)\}$", group), rule
        assert "        turn=1,\n" in _rules()[rule], rule
    assert settings["resources"] == {"turn": 1}
    assert settings["set-resource-scopes"] == {"turn": "local"}


def test_uncommenting_the_gpu_block_asks_for_one_gpu_for_every_rule_that_can_use_it() -> None:
    chosen = with_gpus(REPOSITORY / "profiles/slurm/config.v9+.yaml")["set-resources"]
    gpu = {"slurm_partition": "gpu", "gpu": 1}
    assert set(chosen) == {
        "train_member",
        "train_members",
        "predict_member",
        "compute_receptive_fields",
        "run_analysis",
    }
    assert all(asked == gpu for asked in chosen.values())


def test_a_sites_own_limit_grows_with_the_attempt(tmp_path: Path) -> None:
    """Values under set-resources are expressions: the documented line asks for twice as much each time."""
    profile = (REPOSITORY / "profiles/slurm/config.v9+.yaml").read_text()
    documented = re.search(r"#     # runtime: (.+attempt.+)", profile)
    assert documented is not None
    code = RUNTIMES.format(value=documented[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["240", "480", "960"]


def test_retries_stand_in_no_rule() -> None:
    for path in [REPOSITORY / "Snakefile", *REPOSITORY.glob("rules/*.smk")]:
        assert "retries:" not in path.read_text(), path.name


def test_every_profile_line_has_its_reason() -> None:
    text = (REPOSITORY / "profiles" / "slurm" / "config.v9+.yaml").read_text()
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")) and not line.rstrip().endswith(":"):
            assert "#" in line or line.startswith("executor"), f"no reason given: {line}"
