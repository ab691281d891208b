"""Marmoset recordings of Sridhar et al. 2025 as documented loaders."""
