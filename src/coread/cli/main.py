"""`coread <command>`: dispatch to the commands, importing only the one that runs."""

import importlib
import sys

from coread import __version__

COMMANDS = {
    "train": ("coread.cli.train", "train one member from a Hydra config (--config-name NAME key=value ...)"),
    "create-data": ("coread.cli.create_data", "write synthetic data: the tutorial's HDF5 files or a simulated cortex"),
    "download": ("coread.cli.download", "bring the published files of a dataset here, verified (--list names them)"),
    "campaign": ("coread.cli.campaign", "status | resume | stop | allow: the workflow running in this folder"),
    "search": ("coread.cli.search", "search hyper-parameters: Optuna draws trials, submitit runs them as jobs"),
    "visualize": ("coread.cli.visualize", "draw core filters, readout masks and receptive fields of a trained model"),
    "export-nwb": ("coread.cli.export_nwb", "write a recording as Neurodata Without Borders file"),
    "evaluate": ("coread.cli.evaluate", "score trained members on the recordings of their experiment"),
    "submission": ("coread.cli.submission", "write | check: competition files of SENSORIUM 2022"),
    "publish": ("coread.cli.publish", "write trained members as a folder to give away: weights, settings, model card"),
}


def usage() -> str:
    """Return the overview that `coread --help` prints."""
    lines = [f"  {name:12} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: coread <command> ...", "", "commands:", *lines, "", "coread <command> --help tells more"])


def main(argv: list[str] | None = None) -> None:
    """Run a command; exits with status 2 for an unknown one."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
    elif arguments[0] == "--version":
        print(__version__)
    elif arguments[0] in COMMANDS:
        module, _ = COMMANDS[arguments[0]]
        importlib.import_module(module).main(arguments[1:])
    else:
        print(f"coread: unknown command {arguments[0]!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
