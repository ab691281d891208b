"""Models of single cells from the command line."""

from pathlib import Path

import pytest

from coread.cli.main import main
from coread.models.member import load_member
from coread.models.single_cell import IndependentCells

SMALL = ["data_io.sessions=[retina_0]", "splits.clip_length=50", "trainer.max_epochs=1", "paths.output_dir=results"]
SMALL += [f"data_io.presentations.{name}=2" for name in ("movie_trials", "noise_trials", "repeats")]


@pytest.mark.parametrize("model", ["single_cell_lnp", "single_cell_sc"])
def test_the_command_trains_single_cell_models(configs: Path, model: str) -> None:
    population = (configs / "simulated_retina_ln.yaml").read_text()
    (configs / "cells.yaml").write_text(population.replace("- model: linear_nonlinear", f"- model: {model}"))
    main(["train", "--config-path", str(configs), "--config-name", "cells", *SMALL])
    (path,) = Path("results").glob("**/model.ckpt")
    assert isinstance(load_member(path).model, IndependentCells)
