"""Modules: losses."""
