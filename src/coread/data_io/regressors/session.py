"""All regressors of one session: fitted once per fold, stored with the member, gathered on the device batch by batch.

`fit_session` fits the maps on training bins; `SessionMaps.bind` applies them to a recording and returns a
`SessionContext`, which holds one small table per regressor and the cumulative sum of the available responses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, Int8
from torch import Tensor

from coread.data_io.regressors.behaviour import (
    BEHAVIOUR,
    PUPIL_CENTER,
    STATISTICS,
    Normalisation,
    fit_normalisation,
)
from coread.data_io.regressors.history import AvailableBins, cumulative_sum, mean_of_last
from coread.data_io.regressors.network_state import STATE_SETTINGS, StateMap, check_state_settings, fit_state
from coread.data_io.regressors.trial_order import (
    AVAILABLE,
    RegressorError,
    available_bins,
    bins_in_time,
    scaled_responses,
)
from coread.data_io.splits import TRAIN
from coread.recording import Recording

CONTEXT_NAMES = ("behaviour", "pupil_center", "history", "state", "time_order")
NORMALISED = ("behaviour", "pupil_center")
SETTINGS = ("behaviour", "pupil_center", "statistics_of", "missing", "allow_absent", "history", "state")
GROUP_SETTINGS = {"behaviour": ("scheme",), "history": ("lags", "available"), "state": STATE_SETTINGS}
STATISTICS_OF = ("train", "all")


@dataclass(frozen=True)
class HistorySettings:
    """Lags in available responses, and whose responses are available (a key of `trial_order.AVAILABLE`)."""

    lags: tuple[int, ...]
    available: str


@dataclass(frozen=True, eq=False)
class SessionMaps:
    """What was fitted for one session and fold; None where the settings leave a regressor out."""

    session: str
    behaviour: Normalisation | None = None
    pupil_center: Normalisation | None = None
    history: HistorySettings | None = None
    state: StateMap | None = None

    def names(self) -> tuple[str, ...]:
        """Names of the regressors that a bound context can give; time_order always."""
        return tuple(name for name in CONTEXT_NAMES if name == "time_order" or getattr(self, name) is not None)

    def widths(self) -> dict[str, int]:
        """Return the number of behaviour variables, pupil coordinates, lags and state components, as far as fitted."""
        widths = {name: len(part.variables) for name in NORMALISED if (part := getattr(self, name)) is not None}
        if self.history is not None:
            widths["history"] = len(self.history.lags)
        if self.state is not None:
            widths["state"] = len(self.state.factors)
        return widths

    def to_plain(self) -> dict[str, Any]:
        """Return numbers, texts, lists and tensors only, so that a member's file holds no code."""
        history = self.history and {"lags": list(self.history.lags), "available": self.history.available}
        fitted = {name: getattr(self, name) for name in ("behaviour", "pupil_center", "state")}
        plain = {name: None if part is None else part.to_plain() for name, part in fitted.items()}
        return {"session": self.session, "history": history} | plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "SessionMaps":
        """Return what `to_plain` wrote, to the bit."""
        history = plain["history"]
        return cls(
            session=str(plain["session"]),
            behaviour=plain["behaviour"] and Normalisation.from_plain(plain["behaviour"]),
            pupil_center=plain["pupil_center"] and Normalisation.from_plain(plain["pupil_center"]),
            history=history and HistorySettings(tuple(history["lags"]), history["available"]),
            state=plain["state"] and StateMap.from_plain(plain["state"]),
        )

    def bind(
        self, recording: Recording, labels: Int8[np.ndarray, "bin"], response_scale: Float32[Tensor, "neuron"]
    ) -> "SessionContext":
        """Return the regressors of every bin of a recording, for the labels of a fold.

        Raises RegressorError for another session, or responses or behaviour that are not finite where they must be.
        """
        if recording.session != self.session:
            raise RegressorError(f"the regressors of {self.session!r} were asked for session {recording.session!r}")
        in_time = bins_in_time(recording)
        tables: dict[str, Tensor] = {"time_order": torch.as_tensor(recording.bin_column("time_order").astype(np.int64))}
        for name in NORMALISED:
            normalisation: Normalisation | None = getattr(self, name)
            if normalisation is not None:
                values = normalisation.apply(getattr(recording, name), recording.n_bins)
                tables[name] = torch.from_numpy(values)
        scale = _as_array(response_scale)
        sums = {}
        for which in sorted({part.available for part in (self.history, self.state) if part is not None}):
            known = AvailableBins.find(available_bins(labels, which), in_time)
            responses = scaled_responses(recording, known.bins, scale)
            if self.state is not None and self.state.available == which:
                # the state of a bin depends on the last available response only: one row per available response
                tables["state"] = torch.from_numpy(self.state.after_each(responses)[known.before])
            if self.history is not None and self.history.available == which:
                sums = {"total": cumulative_sum(responses), "before": torch.from_numpy(known.before)}
        return SessionContext(self, tables, sums)


@dataclass(frozen=True, eq=False)
class SessionContext:
    """The regressors of every bin of one recording; `at` gathers those of a batch on the device.

    Memory: 8 bytes per available bin and neuron for the history; everything else is a few numbers per bin.
    """

    maps: SessionMaps
    tables: dict[str, Tensor]
    sums: dict[str, Tensor]
    _on_device: dict[torch.device, tuple[dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=dict)

    def at(
        self, bins: Int[np.ndarray, "batch time"], names: Sequence[str], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Return regressors of bins by name, with the leading dimensions of `bins`.

        behaviour (batch, time, variable), pupil_center (batch, time, 2), history (batch, time, neuron, lag), state
        (batch, time, component) in float32, time_order (batch, time) in int64. Raises RegressorError for a name that
        was not fitted.
        """
        if unknown := [name for name in names if name not in self.maps.names()]:
            raise RegressorError(
                f"session {self.maps.session!r}: the model asks for {unknown}, the regressors of this experiment are "
                f"{list(self.maps.names())}; set regressors.{unknown[0]}"
            )
        tables, sums = self._resident(torch.device(device))
        index = torch.as_tensor(np.asarray(bins, np.int64), device=device)
        context = {name: tables[name][index] for name in names if name != "history"}
        if "history" in names and self.maps.history is not None:
            context["history"] = mean_of_last(sums["total"], sums["before"][index], self.maps.history.lags)
        return context

    def _resident(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return tables and sums on a device, moved there once."""
        if device not in self._on_device:
            self._on_device[device] = (
                {name: values.to(device) for name, values in self.tables.items()},
                {name: values.to(device) for name, values in self.sums.items()},
            )
        return self._on_device[device]


def fit_session(
    recording: Recording,
    labels: Int8[np.ndarray, "bin"],
    response_scale: Float32[Tensor, "neuron"],
    settings: Mapping[str, Any],
) -> SessionMaps:
    """Fit the regressors of one session for one fold, as the config group `regressors` says.

    Everything is fitted on bins labelled train, unless the published options ask for more. Raises RegressorError for
    settings that do not exist and data that cannot be fitted.
    """
    check_settings(settings)
    try:
        return _fit(recording, labels, _as_array(response_scale), settings)
    except RegressorError as error:
        name = f"session {recording.session!r}"
        raise error if name in str(error) else RegressorError(f"{name}: {error}") from error


def _fit(
    recording: Recording,
    labels: Int8[np.ndarray, "bin"],
    response_scale: Float32[np.ndarray, "neuron"],
    settings: Mapping[str, Any],
) -> SessionMaps:
    in_time = bins_in_time(recording)
    # in the order of time, so that the order of a file changes no sum
    counted = in_time[labels[in_time] == TRAIN] if settings["statistics_of"] == "train" else in_time
    behaviour = pupil_center = history = state = None
    if settings["behaviour"] is not None:
        scheme, variables = settings["behaviour"]["scheme"], _behaviour_names(recording)
        behaviour = _normalisation(recording, "behaviour", counted, scheme, variables, settings)
    if settings["pupil_center"]:
        pupil_center = _normalisation(recording, "pupil_center", counted, "z_score", PUPIL_CENTER, settings)
    if settings["history"] is not None:
        lags = tuple(int(lag) for lag in settings["history"]["lags"])
        history = HistorySettings(lags, settings["history"]["available"])
    if settings["state"] is not None:
        state = fit_state(recording, labels, response_scale, settings["state"])
    return SessionMaps(recording.session, behaviour, pupil_center, history, state)


def _normalisation(
    recording: Recording,
    name: str,
    fitted_on: Int[np.ndarray, "fitted"],
    scheme: str,
    variables: Sequence[str],
    settings: Mapping[str, Any],
) -> Normalisation:
    published = {}
    if settings["statistics_of"] == "all":
        keys = {statistic: f"{name}_{statistic}_all" for statistic in STATISTICS}
        published = {statistic: recording.session_info.get(key) for statistic, key in keys.items()}
    return fit_normalisation(
        getattr(recording, name),
        fitted_on,
        scheme,
        variables,
        missing=settings["missing"],
        allow_absent=bool(settings["allow_absent"]),
        published={key: value for key, value in published.items() if value is not None and np.isfinite(value).all()},
    )


def _behaviour_names(recording: Recording) -> tuple[str, ...]:
    """Return the names of the behaviour variables: those of the session, else the published three."""
    return tuple(str(name) for name in recording.session_info.get("behaviour_names", BEHAVIOUR))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise RegressorError for keys that are missing or unknown, or values that cannot be."""
    groups: list[tuple[str, Mapping[str, Any], Sequence[str]]] = [("regressors", settings, SETTINGS)]
    groups += [
        (f"regressors.{name}", settings[name], keys)
        for name, keys in GROUP_SETTINGS.items()
        if settings.get(name) is not None
    ]
    for name, found, expected in groups:
        if set(found) != set(expected):
            raise RegressorError(f"{name} must have the keys {sorted(expected)}, found {sorted(found)}")
    if settings["statistics_of"] not in STATISTICS_OF:
        raise RegressorError(
            f"regressors.statistics_of must be one of {list(STATISTICS_OF)}, found {settings['statistics_of']!r}"
        )
    if settings["history"] is not None:
        lags = list(settings["history"]["lags"])
        if not lags or any(int(lag) != lag or lag < 1 for lag in lags):
            raise RegressorError(f"regressors.history.lags must be whole numbers of 1 or more, found {lags}")
        if settings["history"]["available"] not in AVAILABLE:
            raise RegressorError(
                f"regressors.history.available must be one of {list(AVAILABLE)}, found "
                f"{settings['history']['available']!r}"
            )
    if settings["state"] is not None:
        check_state_settings(settings["state"])


def _as_array(response_scale: Tensor | np.ndarray) -> Float32[np.ndarray, "neuron"]:
    return np.asarray(torch.as_tensor(response_scale).cpu(), np.float32)
