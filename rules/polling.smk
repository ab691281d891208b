"""A queue that gives no answer for a while; no rules.

After a few failed queries, as while the scheduler or its accounting restarts, the plugin (2.8.0) drops every job that it
waits for, and the workflow would wait for ever. Here a query that failed counts as one that knew of no job, after which
the plugin asks again at its next poll.
"""


def patient(query):
    """Return a query of the queue that never fails; the plugin's own gives (None, None) where it did."""

    async def ask(command, logger):
        statuses, seconds = await query(command, logger)
        if statuses is None:
            logger.warning("The queue does not answer; asking again at the next poll.")
            return {}, 0.0
        return statuses, seconds

    return ask


if workflow.is_main_process:
    try:
        import snakemake_executor_plugin_slurm as slurm_plugin
    except ImportError:
        pass  # campaigns on this machine need no plugin
    else:
        slurm_plugin.query_job_status = patient(slurm_plugin.query_job_status)
