"""Regressors of a session: what a model of its responses is told besides the stimulus."""

from coread.data_io.regressors.session import CONTEXT_NAMES, SessionContext, SessionMaps, fit_session
from coread.data_io.regressors.trial_order import RegressorError

__all__ = ["CONTEXT_NAMES", "RegressorError", "SessionContext", "SessionMaps", "fit_session"]
