"""Put a member that was trained together with others where the workflow expects it."""

import argparse
from pathlib import Path

from coread.failure import reported_errors
from coread.member_files import unpack_member


def main() -> None:
    """Link or copy model, digest and learning curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True, help="where the members of the pack lie, as JSON")
    parser.add_argument("--fold", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--outputs", type=Path, nargs="+", required=True)
    arguments = parser.parse_args()
    name, files = f"fold{arguments.fold}/seed{arguments.seed}", [path.name for path in arguments.outputs]
    unpack_member(arguments.pack, name, arguments.outputs[0].parent, files)


if __name__ == "__main__":
    with reported_errors():
        main()
