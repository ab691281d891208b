"""After the data stage nothing needs a network: the rest of a campaign runs on a cluster that has none."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_campaign import SlurmCampaign
from tests.cluster.slurm_cluster import ClusterUnavailableError, SlurmCluster

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

# A network namespace whose one interface is its loopback, for as long as this process lives. The loopback has a second
# address, because the C library resolves no name, not even this machine's own, where 127.0.0.1 is the only one.
HOLDER = """
import fcntl, os, socket, struct
with socket.socket() as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14s", b"lo", 1, b""))  # SIOCSIFFLAGS, IFF_UP
    address = struct.pack("16sHH4s8s", b"lo:1", socket.AF_INET, 0, socket.inet_aton("10.255.255.1"), b"")
    fcntl.ioctl(control, 0x8916, address)  # SIOCSIFADDR
print("ready", flush=True)
os.read(0, 1)
"""
CONNECT = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"


@pytest.fixture
def no_network() -> Iterator[tuple[str, ...]]:
    """Put before a command to run it without a network."""
    command = ["unshare", "--net", sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip(f"no network namespace: {holder.stderr.read().decode().strip()}")
        yield ("nsenter", "--target", str(holder.pid), "--net")
        holder.stdin.close()


@pytest.fixture
def offline_cluster(tmp_path_factory: pytest.TempPathFactory, no_network: tuple[str, ...]) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), prefix=no_network)
    try:
        cluster.start()
    except ClusterUnavailableError as reason:
        pytest.skip(str(reason))
    yield cluster
    cluster.stop()


def test_the_campaign_after_the_data_needs_no_network(offline_cluster: SlurmCluster, tmp_path: Path) -> None:
    blocked = subprocess.run([*offline_cluster.prefix, sys.executable, "-c", CONNECT], capture_output=True, text=True)
    assert "Network is unreachable" in blocked.stderr
    campaign = SlurmCampaign(tmp_path / "campaign", offline_cluster).prepare()
    campaign.snakemake("data")
    try:
        campaign.finish("all", "--config", "seeds=[0]")
    finally:
        campaign.close()
    attempts = campaign.all_attempts()
    assert (campaign.root / "results/report.html").exists()
    assert {job for job, made in attempts.items() if len(made) > 1} == set()
    assert {made[0]["node"] for job, made in attempts.items() if job.startswith("train_member/")} <= {"g1", "g2"}
