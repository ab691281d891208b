"""Compute the receptive field of every neuron from the ensemble's gradients."""

import argparse
from pathlib import Path

import torch
import yaml

from coread.failure import reported_errors
from coread.insilico.receptive_fields import compute_receptive_fields, write_receptive_fields
from coread.models.member import load_member
from coread.provenance import write_digest
from coread.recording import read_recordings


def main() -> None:
    """Write receptive_fields.{h5,csv} of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the insilico stage")
    parser.add_argument("--models", type=Path, nargs="+", required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = compute_receptive_fields(
        [load_member(path, device) for path in arguments.models],
        read_recordings(arguments.recordings, memory_budget_bytes=0),
        yaml.safe_load(arguments.config.read_text())["insilico"],
        device=device,
    )
    write_receptive_fields(fields, arguments.output, arguments.table)
    write_digest(arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
