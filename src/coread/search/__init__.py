"""Hyper-parameter search: Optuna draws trials, submitit runs them as job arrays, the result is a file of overrides."""
