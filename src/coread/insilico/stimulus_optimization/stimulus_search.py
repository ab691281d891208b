"""How the experiments look for a stimulus: its length, its norm, where it starts, and the rules of its optimisation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from coread.insilico.population import Population
from coread.insilico.stimulus_optimization.optimizer import Rules
from coread.insilico.stimulus_optimization.population_optimizer import noise_starts, within_budget


@dataclass(frozen=True)
class StimulusSearch:
    """What the experiments' settings of the same names say; raises ValueError where nothing can be found with them."""

    rules: Rules
    window_s: float
    rms_sd: float
    contrast_limit: float
    n_starts: int
    seed: int

    def __post_init__(self) -> None:
        if self.n_starts < 1 or self.rms_sd <= 0 or self.contrast_limit <= 0:
            raise ValueError(
                "need a start, and rms_sd and contrast_limit above 0: "
                f"n_starts={self.n_starts}, rms_sd={self.rms_sd}, contrast_limit={self.contrast_limit}"
            )

    def window_bins(self, population: Population) -> int:
        """Return over how many bins a response is averaged; raises ValueError for seconds without a rate."""
        if not self.window_s:
            return 1
        if not np.isfinite(population.rate_hz):
            raise ValueError(
                f"a window of {self.window_s} s needs the rate of the responses, which the model does not know"
            )
        return max(1, round(self.window_s * population.rate_hz))

    def shape(self, population: Population) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of a stimulus: as long as the window's responses need."""
        channels, height, width = population.frame_shape
        return channels, population.lag + self.window_bins(population), height, width

    def bounded_rules(self, population: Population) -> Rules:
        """Return the rules under which every stimulus has a root mean square of `rms_sd` over the whole frames.

        The unit of `rms_sd` is the standard deviation of the training stimulus: Höfling et al. (2024) allow a norm of
        30 over 2 x 50 x 18 x 16 values, 0.177 standard deviations.
        """
        shape = self.shape(population)
        norm = self.rms_sd / population.contrast_std * float(np.sqrt(np.prod(shape)))
        return within_budget(self.rules, shape[0], norm, self.contrast_limit)

    def starts(self, population: Population) -> Float[Tensor, "start channel time height width"]:
        """Return noise to start from, the same for all targets."""
        return noise_starts(self.shape(population), self.n_starts, self.seed).to(population.device)
