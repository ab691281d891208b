"""Core + readout encoding models of visual neurons, from recordings to paper tables."""

__version__ = "0.1.0"
