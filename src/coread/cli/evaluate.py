"""`coread evaluate --config-name X`: score the trained members of an experiment on its recordings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from coread.cli.hydra_entry import experiment_folder, run_with_config
from coread.config import stage_slice

if TYPE_CHECKING:
    from coread.models.member import Member

USAGE = """usage: coread evaluate --config-name NAME [--config-path DIR] [key=value ...]

Scores every member below <paths.output_dir>/<exp_name>/ (fold*/seed*/model.ckpt) and their ensemble, per neuron and
test stimulus, writes <paths.output_dir>/<exp_name>/scores.csv and prints the summary.
Give the same overrides as to train: members of other data, or with settings that differ, are refused."""

SHOWN = ("stimulus", "predictor", "metric", "mean", "ci_low", "ci_high", "n", "n_excluded")


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for anything that is wrong."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return
    run_with_config("evaluate", argv, _evaluate)


def _evaluate(config: DictConfig) -> None:
    from coread.data_io.sources import build_recordings
    from coread.eval.predictions import predict_member
    from coread.eval.scores import score_experiment, write_scores
    from coread.eval.tables import summarize
    from coread.models.member import load_member
    from coread.recording import content_digest

    folder = experiment_folder(config)
    paths = sorted(folder.glob("fold*/seed*/model.ckpt"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no trained member (fold*/seed*/model.ckpt); run coread train first")
    members = {path: load_member(path) for path in paths}
    _check_same_settings(members)
    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    recordings = build_recordings(stage_slice(config, "data")["data_io"], data_dir)
    digests = {recording.session: content_digest(recording) for recording in recordings}
    predictions = [
        predict_member(member, recordings, experiment=config.exp_name, digests=digests) for member in members.values()
    ]
    evaluation = stage_slice(config, "evaluate")["evaluation"]
    scores = score_experiment(recordings, predictions, evaluation)
    write_scores(scores, folder / "scores.csv")
    summary = summarize(scores, evaluation)
    print(summary.loc[summary["n"] > 0, list(SHOWN)].to_string(index=False, float_format="%.3f"))


def _check_same_settings(members: Mapping[Path, "Member"]) -> None:
    """Raise ValueError if members were trained with different settings: an earlier run may have left some behind."""
    (first, reference), *others = members.items()
    for path, member in others:
        if (difference := _first_difference(reference.config, member.config)) is not None:
            raise ValueError(
                f"{first} and {path} were trained with different settings: {difference}; members of an ensemble differ "
                "by fold and seed only, so move away what another run left there, or give that run an exp_name of its "
                "own"
            )


def _first_difference(one: Any, other: Any, key: str = "") -> str | None:
    """Return the first key at which settings differ, with both values; an absent key says the same as null."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else f"{key} is {one!r} and {other!r}"
    parts = (
        _first_difference(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        for name in sorted({*one, *other})
    )
    return next((found for found in parts if found is not None), None)
