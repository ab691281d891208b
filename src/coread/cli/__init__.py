"""The command line: coread train, evaluate, create-data."""
