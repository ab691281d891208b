"""Building blocks: nn.Modules, nothing else."""
