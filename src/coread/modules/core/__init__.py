"""Cores: what all sessions share, from the stimulus to feature maps."""

from coread.modules.core.base_core import ConvolutionalCore, Core, DummyCore, SimpleCoreWrapper
from coread.modules.core.gru_core import ConditionedGRUCore, ConvGRUCore

__all__ = ["ConditionedGRUCore", "ConvGRUCore", "ConvolutionalCore", "Core", "DummyCore", "SimpleCoreWrapper"]
