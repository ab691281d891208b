"""`coread create-data DIR`: write the tutorial's synthetic data, or sessions of the simulated visual cortex."""

import argparse
from pathlib import Path

from coread.failure import reported_errors


def main(argv: list[str]) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="coread create-data", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write; created if it does not exist")
    parser.add_argument("--num-colors", type=int, default=3, help="colour channels of the stimuli")
    parser.add_argument("--num-stimuli", type=int, default=4, help="stimuli random_noise_0, random_noise_1, ...")
    parser.add_argument("--num-sessions", type=int, default=2, help="sessions session_0.hdf5, session_1.hdf5, ...")
    parser.add_argument("--clip-length", type=int, default=75, help="frames per clip; stimulus i has 70 + i clips")
    parser.add_argument("--seed", type=int, default=0, help="seed of stimuli and neurons")
    parser.add_argument(
        "--cortex",
        metavar="NAME",
        help="instead: sessions of configs/data_io/NAME.yaml (simulated_cortex, ...) in the SENSORIUM 2022 layout",
    )
    parser.add_argument("--zip", action="store_true", help="with --cortex: one archive per session instead of a folder")
    arguments = parser.parse_args(argv)
    with reported_errors(in_terminal=True):
        if arguments.cortex:
            _write_cortex(arguments.cortex, arguments.folder, zipped=arguments.zip)
            return
        from coread.data_io.tutorial_data import create_data

        create_data(
            arguments.folder,
            num_colors=arguments.num_colors,
            num_stimuli=arguments.num_stimuli,
            num_sessions=arguments.num_sessions,
            clip_length=arguments.clip_length,
            seed=arguments.seed,
        )
        print(f"wrote {arguments.num_stimuli} stimuli and {arguments.num_sessions} sessions to {arguments.folder}")


def _write_cortex(name: str, folder: Path, *, zipped: bool) -> None:
    from coread import config
    from coread.data_io.readers.simulated_cortex import write_sessions

    paths = write_sessions(config.compose_data_io(name), folder, zipped=zipped)
    print(f"wrote {len(paths)} session{'s' * (len(paths) > 1)} to {folder}: {', '.join(path.name for path in paths)}")
