"""Model 4 on a small simulated cortex, from nothing to scores on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coread.cli.main import main
from coread.config import compose, stage_slice
from coread.data_io.sources import build_recordings
from coread.eval.predictions import predict
from coread.models.member import load_member

SMALL = [
    "data_io.neurons=12",
    "data_io.presentations.train=96",
    "data_io.presentations.validation=24",
    "data_io.presentations.test=5",
    "data_io.presentations.final_test=3",
    "data_io.presentations.repeats=4",
    "data_io.competition_sessions=[cortex-2-1]",
    "dataloader.batch_size=32",
    "model.core.hidden_channels=4",
    "model.core.layers=2",
    "evaluation.bootstrap.n=20",
    "trainer.max_epochs=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["simulated_cortex_model4", "simulated_cortex_modern"])
def test_model_4_is_simulated_trained_and_scored(experiment: str, tmp_path: Path) -> None:
    for fold in (0, 1):
        main(["train", "--config-name", experiment, *SMALL, f"fold={fold}", f"seed={100 + fold}"])
    main(["evaluate", "--config-name", experiment, *SMALL])
    folder = Path("results") / experiment
    scores = pd.read_csv(folder / "scores.csv")
    single = scores[scores["metric"] == "single_trial_correlation"]
    assert set(single["predictor"]) == {"fold0_seed100", "fold1_seed101", "ensemble"}
    # the competition session's tests are withheld: it has validation scores only
    assert set(single.loc[single["session"] == "cortex-2-1", "tier"]) == {"validation"}
    assert set(single.loc[single["session"] == "cortex-1-1", "tier"]) == {"validation", "test"}
    assert single["value"].notna().mean() > 0.9
    member = load_member(folder / "fold1" / "seed101" / "model.ckpt")
    recordings = build_recordings(stage_slice(compose(experiment, tuple(SMALL)), "data")["data_io"], None)
    withheld = recordings[1].trials["withheld"].to_numpy(bool)
    assert withheld.sum() == 4 * (5 + 3)
    assert np.isfinite(predict(member.model, recordings[1], member.data_info)[withheld]).all()
