"""Run one in-silico analysis on a share of the neurons of every session."""

import argparse
from pathlib import Path

import torch
import yaml

from coread.failure import reported_errors
from coread.insilico.experiment import write_results
from coread.insilico.running import load_experiment, run_experiment
from coread.models.member import load_member
from coread.provenance import write_digest
from coread.recording import read_recording


def main() -> None:
    """Write shard<shard>.h5, on a GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the analysis")
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--shard", type=int, required=True, help="which share of the neurons, from 0 on")
    parser.add_argument("--shards", type=int, required=True, help="how many shares there are")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    settings = yaml.safe_load(arguments.config.read_text())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    members = [load_member(path, device) for path in arguments.models]
    recordings = [
        read_recording(path, load_frames=False, load_responses=False, check=False) for path in arguments.recordings
    ]
    results = run_experiment(
        load_experiment(settings),
        [member.model for member in members],
        shard=arguments.shard,
        n_shards=arguments.shards,
        recordings={recording.session: recording for recording in recordings},
        device=device,
    )
    # written beside the models, so that nothing large is hashed again
    digests = [path.with_suffix(".sha256").read_text().strip() for path in arguments.models]
    names = [f"fold{member.fold}_seed{member.seed}" for member in members]
    provenance = {"settings": settings, "members": dict(zip(names, digests, strict=True))}
    write_results(results, arguments.output, None, provenance)
    write_digest(arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
