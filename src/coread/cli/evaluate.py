"""`coread evaluate --config-name X`: score the trained members of an experiment on its recordings."""

from pathlib import Path

from omegaconf import DictConfig

from coread.cli.hydra_entry import experiment_folder, run_with_config
from coread.config import stage_slice

USAGE = """usage: coread evaluate --config-name NAME [--config-path DIR] [key=value ...]

Scores every member below <paths.output_dir>/<exp_name>/ (fold*/seed*/model.ckpt) and their ensemble, per neuron and
test stimulus, writes <paths.output_dir>/<exp_name>/scores.csv and prints the summary.
Give the same overrides as to train."""

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

    folder = experiment_folder(config)
    paths = sorted(folder.glob("fold*/seed*/model.ckpt"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no trained member (fold*/seed*/model.ckpt); run coread train first")
    data_dir = None if config.paths.data_dir is None else Path(config.paths.data_dir)
    recordings = build_recordings(stage_slice(config, "data")["data_io"], data_dir)
    predictions = [predict_member(load_member(path), recordings, experiment=config.exp_name) for path in paths]
    evaluation = stage_slice(config, "evaluate")["evaluation"]
    scores = score_experiment(recordings, predictions, evaluation)
    write_scores(scores, folder / "scores.csv")
    summary = summarize(scores, evaluation)
    print(summary.loc[summary["n"] > 0, list(SHOWN)].to_string(index=False, float_format="%.3f"))
