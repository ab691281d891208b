"""Compare what the members of an ensemble say in every in-silico analysis of one experiment."""

import argparse
from pathlib import Path

import yaml

from coread.config import RECEPTIVE_FIELDS
from coread.failure import reported_errors
from coread.insilico.experiment import ExperimentResult, read_results
from coread.insilico.receptive_fields import read_receptive_fields
from coread.insilico.seed_consistency import SeedConsistency
from coread.plotting.style import save_drawing
from coread.provenance import write_text


def main() -> None:
    """Write comparison.{csv,png,pdf,txt}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of seed_consistency")
    parser.add_argument("--results", type=Path, nargs="+", required=True)
    parser.add_argument("--members", type=int, required=True, help="how many members the ensemble has")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    settings = yaml.safe_load(arguments.config.read_text())
    settings.pop("_target_")
    results = {path.stem: _read(path) for path in arguments.results}
    table, drawing = SeedConsistency(**settings).compare(results, arguments.members)
    write_text(arguments.output / "comparison.csv", table.to_csv(index=False, lineterminator="\n"))
    save_drawing(drawing, arguments.output / "comparison")


def _read(path: Path) -> dict[str, ExperimentResult]:
    if path.stem != RECEPTIVE_FIELDS:
        return read_results(path)
    return {session: ExperimentResult(fields.table) for session, fields in read_receptive_fields(path).items()}


if __name__ == "__main__":
    with reported_errors():
        main()
