"""Modules: layers."""
