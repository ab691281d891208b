"""Modules: core."""
