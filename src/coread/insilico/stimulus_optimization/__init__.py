"""Stimuli that drive, suppress or tell apart model neurons."""
