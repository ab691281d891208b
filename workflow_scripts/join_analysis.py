"""Join the shares of one in-silico analysis into one result of all neurons."""

import argparse
from pathlib import Path

import yaml

from coread.failure import reported_errors
from coread.insilico.experiment import read_provenance, read_results, write_results
from coread.insilico.running import finish_experiment, load_experiment
from coread.provenance import write_digest


def main() -> None:
    """Write <analysis>.{h5,csv}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the analysis")
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    arguments = parser.parse_args()

    experiment = load_experiment(yaml.safe_load(arguments.config.read_text()))
    results = finish_experiment(experiment, [read_results(path) for path in arguments.shards])
    provenance = read_provenance(arguments.shards[0])  # of members and settings, which all shares have in common
    provenance.pop("coread")
    write_results(results, arguments.output, arguments.table, provenance)
    write_digest(arguments.output)


if __name__ == "__main__":
    with reported_errors():
        main()
