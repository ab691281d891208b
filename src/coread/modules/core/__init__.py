"""Cores: what all sessions share, from the stimulus to feature maps."""

from coread.modules.core.base_core import Core, DummyCore, SimpleCoreWrapper

__all__ = ["Core", "DummyCore", "SimpleCoreWrapper"]
