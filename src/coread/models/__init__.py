"""Whole models: a shared core and one readout per session."""

from coread.models.core_readout import BaseCoreReadout, ExampleCoreReadout, UnifiedCoreReadout, is_model_causal
from coread.models.member import Member, load_member

__all__ = [
    "BaseCoreReadout",
    "ExampleCoreReadout",
    "Member",
    "UnifiedCoreReadout",
    "is_model_causal",
    "load_member",
]
