"""What the `evaluation` node of an experiment may say, checked once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

UNDEFINED = ("exclude", "zero")
FORMULAS = ("exact", "sensorium_2022")
CORRELATIONS = ("single_trial_correlation", "correlation_to_average")
THRESHOLDED = (*CORRELATIONS, "normalized_correlation", "fraction_of_ceiling", "feve", "poisson_loss")


class EvaluationError(ValueError):
    """A setting of the evaluation has no meaning; the message names key, expected and found."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that can change a score, an interval or a table.

    `member_intervals`: whether scores of single members get intervals over repeats, or those of the ensemble only.
    `thresholded`: metrics whose means leave out neurons below `explainable_variance_threshold`; None: all of them.
    `undefined`: whether a correlation without a value (silent neuron) is left out of means (exclude) or counts as 0
    (zero, the published `get_correlations`). `formulas`: `exact`, or `sensorium_2022` for the published ones
    (`coread.eval.sensorium_metrics`).
    """

    explainable_variance_threshold: float
    n_bootstrap: int
    level: float
    seed: int
    member_intervals: bool = True
    thresholded: frozenset[str] | None = None
    undefined: str = "exclude"
    formulas: str = "exact"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read an `evaluation` node; what it does not say is as in configs/evaluation/default.yaml.

        Raises EvaluationError.
        """
        bootstrap, thresholded = config["bootstrap"], config.get("thresholded_metrics", "all")
        if isinstance(thresholded, str) and thresholded != "all":
            raise EvaluationError(
                f"evaluation.thresholded_metrics is {thresholded!r}, expected all or a list of metrics"
            )
        if unknown := [name for name in thresholded if name not in THRESHOLDED] if thresholded != "all" else []:
            raise EvaluationError(
                f"evaluation.thresholded_metrics names {unknown[0]!r}, expected some of {', '.join(THRESHOLDED)}"
            )
        for key, known in (("undefined", UNDEFINED), ("formulas", FORMULAS)):
            if config.get(key, known[0]) not in known:
                raise EvaluationError(f"evaluation.{key} is {config[key]!r}, expected {' or '.join(known)}")
        return cls(
            explainable_variance_threshold=float(config["explainable_variance_threshold"]),
            n_bootstrap=int(bootstrap["n"]),
            level=float(bootstrap["level"]),
            seed=int(bootstrap["seed"]),
            member_intervals=bool(bootstrap.get("members", True)),
            thresholded=None if thresholded == "all" else frozenset(thresholded),
            undefined=str(config.get("undefined", "exclude")),
            formulas=str(config.get("formulas", "exact")),
        )

    def has_threshold(self, metric: str) -> bool:
        """Return whether neurons with too little explainable variance are left out of the means of a metric."""
        return self.thresholded is None or metric in self.thresholded
