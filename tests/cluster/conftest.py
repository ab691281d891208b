"""The cluster of the tests: one per session, skipped with the reason where it cannot run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_campaign import SlurmCampaign
from tests.cluster.slurm_cluster import ClusterUnavailableError, SlurmCluster


@pytest.fixture(scope="session")
def started_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
    except ClusterUnavailableError as reason:
        pytest.skip(str(reason))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(started_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """A cluster with idle nodes and an empty queue; what a test leaves behind is cleared away."""
    yield started_cluster
    started_cluster.start_missing()
    started_cluster.cancel_everything()
    started_cluster.wait_until_idle()


@pytest.fixture
def new_campaign(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Callable[[], SlurmCampaign]]:
    """Factory of campaigns on the cluster; their heads are ended before the queue is cleared."""
    made: list[SlurmCampaign] = []

    def make() -> SlurmCampaign:
        made.append(SlurmCampaign(tmp_path / f"campaign{len(made)}", cluster))
        return made[-1]

    yield make
    for campaign in made:
        campaign.close()
