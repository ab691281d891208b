"""The cluster itself: what the tests of the campaign rely on."""

import pytest

from tests.cluster.slurm_cluster import SlurmCluster


@pytest.mark.slow
def test_a_job_step_without_slurm_conf_finds_its_cluster(cluster: SlurmCluster) -> None:
    """The plugin's jobstep drops every SLURM variable before it calls srun."""
    inner = "env -u SLURM_CONF srun -n1 sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    output = cluster.folder / "step.out"
    cluster.run("sbatch", "--wait", "-p", "gpu", "--gpus=1", "-o", str(output), "--export=ALL", "--wrap", inner)
    node, device = output.read_text().split()
    assert node in ("g1", "g2")
    assert device == "0"
