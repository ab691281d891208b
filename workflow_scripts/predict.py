"""Write what one member predicts for the validation and test bins of every session."""

import argparse
import shutil
from pathlib import Path

import torch

from coread.eval.predictions import predict_member, write_predictions
from coread.failure import reported_errors
from coread.models.member import load_member
from coread.provenance import write_digest
from coread.recording import digest_path, read_recordings


def main() -> None:
    """Predict with one member, on a GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--recordings", type=Path, nargs="+", required=True)
    parser.add_argument("--memory-mb", type=float, required=True, help="of the job; data above half of it are streamed")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    # written beside the recordings, so that nothing large is hashed again
    digests = {path.stem: digest_path(path).read_text().strip() for path in arguments.recordings}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictions = predict_member(
        load_member(arguments.model, device),
        read_recordings(arguments.recordings, memory_budget_bytes=arguments.memory_mb * 2**20 / 2),
        experiment=arguments.experiment,
        digests=digests,
        lazy=True,  # one session after the other, as they are written
    )
    write_predictions(predictions, arguments.output)
    write_digest(arguments.output)
    shutil.rmtree(arguments.model.parent / ".work", ignore_errors=True)  # the model is safe, nothing resumes from it


if __name__ == "__main__":
    with reported_errors():
        main()
