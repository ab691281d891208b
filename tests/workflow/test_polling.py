"""A queue that gives no answer: the plugin may not drop the jobs that it waits for."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def patient_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin as the workflow's head leaves it."""
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)  # undone after the test
    exec((REPOSITORY / "rules/polling.smk").read_text(), {"workflow": SimpleNamespace(is_main_process=True)})


@pytest.mark.usefixtures("patient_plugin")
def test_a_query_that_fails_counts_as_one_that_knew_of_no_job(caplog: pytest.LogCaptureFixture) -> None:
    statuses, seconds = asyncio.run(plugin.query_job_status("false", logging.getLogger()))
    # the plugin drops every job of the poll for (None, None), and asks again for a job that an answer does not name
    assert (statuses, seconds) == ({}, 0.0)
    assert "does not answer" in caplog.text


@pytest.mark.usefixtures("patient_plugin")
def test_an_answer_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    statuses, seconds = asyncio.run(plugin.query_job_status("echo 7|RUNNING", logging.getLogger()))
    assert statuses == {"7": "RUNNING"}
    assert seconds > 0
    assert caplog.text == ""
