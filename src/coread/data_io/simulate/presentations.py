"""Trials of a simulated session: which stimulus is shown when, and how often."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int32


class Presentation(NamedTuple):
    """A stimulus in `n_presentations` pieces of `n_bins` frames, each shown `repeats` times."""

    stimulus: str
    tier: str
    n_presentations: int
    n_bins: int
    repeats: int

    @property
    def n_frames(self) -> int:
        """Frames of the stimulus."""
        return self.n_presentations * self.n_bins


def lay_out(
    presentations: Sequence[Presentation],
) -> tuple[pd.DataFrame, Int32[np.ndarray, "bin"], Int32[np.ndarray, "bin"]]:
    """Return trials in the order of a session, and trial and frame of every bin.

    The presentations of every stimulus are spread evenly over the session, so that nothing is confounded with time.
    """
    rows = [
        pd.DataFrame(
            {
                "stimulus": shown.stimulus,
                "tier": shown.tier,
                "repeat": np.tile(np.arange(shown.repeats), shown.n_presentations),
                "moment": (np.arange(n_trials) + 0.5) / n_trials,
                "first_frame": np.repeat(np.arange(shown.n_presentations), shown.repeats) * shown.n_bins,
                "n_bins": shown.n_bins,
            }
        )
        for shown in presentations
        if (n_trials := shown.n_presentations * shown.repeats)
    ]
    table = pd.concat(rows).sort_values("moment", kind="stable").reset_index(drop=True)
    lengths = table["n_bins"].to_numpy()
    trial = np.repeat(np.arange(len(table)), lengths)
    starts = np.cumsum(lengths) - lengths
    frame = np.arange(len(trial)) - starts[trial] + table["first_frame"].to_numpy()[trial]
    trials = table[["stimulus", "tier", "repeat"]].assign(time_order=np.arange(len(table)), withheld=False)
    return trials, trial.astype(np.int32), frame.astype(np.int32)
