"""Modules: readout."""
