"""The process that drives a campaign: one at a time, and none beside jobs that an earlier one left behind; no rules.

An executor does not take over the jobs of a Snakemake that was killed, and jobs that end after its death leave their
outputs without the record (parameters, code, inputs) by which Snakemake decides what must run again. So every head
notes beforehand what it would record, and the next one records it for the jobs that ended with success.
"""

import hashlib
import socket
import uuid
from datetime import datetime

from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord
from snakemake.persistence.file import FilePersistence
from snakemake.settings.enums import PersistenceBackend
from snakemake.settings.types import DAGSettings

from coread import campaign, orphans
from coread.attempt_log import now
from coread.failed_jobs import describe_failures, describe_submission

HEAD = {"lock": None, "finished": set(), "messages": {}}  # the lock lives as long as this process


def settle_dead_head(is_head=False):
    """Record what ended well after the death of the last head, mark the rest incomplete; return the former's names.

    Does nothing while another process is the head; this one may hold the lock already.
    """
    head = campaign.read_head()
    if head is None or head.outcome not in (None, "interrupted") or (not is_head and campaign.head_lives()):
        return set()
    persistence, aftermath = FilePersistence(), campaign.aftermath(campaign.listed_jobs().values())
    for job in aftermath.finished:
        record_outputs(persistence, job)
    for job in aftermath.unfinished:
        for path in job.outputs:
            if os.path.exists(path) and persistence._read_record(path) is None:
                persistence._mark_incomplete(path, None)
    return {job.job for job in aftermath.finished}


def record_outputs(persistence, job):
    """Write the record that the dead head would have written for the outputs of a job, if it is not there yet."""
    started = datetime.fromisoformat(campaign.last_attempt(job.job)[0]["started"]).timestamp()
    times = [os.path.getmtime(path) for path in job.outputs]
    # inputs that other jobs made could not be read beforehand; what is no older than the outputs may have been edited
    made = [path for path in job.record["input"] if os.path.exists(path) and os.path.getmtime(path) <= min(times)]
    checksums = {path: checksum for path in made if (checksum := file_checksum(path)) is not None}
    facts = {**job.record, "input_checksums": {**checksums, **job.record["input_checksums"]}}
    facts.update(starttime=started, incomplete=False, record_format_version=RECORD_FORMAT_VERSION)
    for path, ended in zip(job.outputs, times):
        known = persistence._read_record(path)
        if known is None or known.starttime != started:
            persistence._write_record(path, MetadataRecord(**facts, endtime=ended))
        persistence._unmark_incomplete(path)


def file_checksum(path):
    """Checksum as Snakemake compares it; None for what is too large to be compared."""
    if os.path.isdir(path) or os.path.getsize(path) > DAGSettings.max_checksum_file_size:
        return None
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def start_head():
    """Become the head of this campaign, or raise WorkflowError before anything is submitted."""
    executor, plugin = workflow.scheduler._executor, workflow.executor_plugin.name
    try:
        HEAD["lock"] = campaign.hold_lock()
        orphans.refuse_orphans(workflow.workdir_init, plugin)
        if settle_dead_head(is_head=True) - HEAD["finished"]:
            raise campaign.CampaignError("jobs of an earlier run ended while this one was starting: start it again")
        if workflow.touch:
            return
        campaign.begin(
            campaign.Head(
                pid=os.getpid(),
                host=socket.gethostname(),
                started=now(),
                command=sys.argv[1:],
                run_id=getattr(executor, "run_uuid", str(uuid.uuid4())),
                executor=plugin,
                folder=str(workflow.workdir_init),
            ),
            list_jobs(),
        )
    except (ValueError, OSError) as error:
        raise WorkflowError(str(error)) from None
    if not workflow.local_exec:
        tell_failures_shortly(executor)


def list_jobs():
    """What this head is going to run, with what it would record, and the names of the jobs that are done."""
    jobs = [job for job in workflow.dag.jobs if job.log]
    made = {str(path) for job in workflow.dag.needrun_jobs() for path in job.output}
    checksums = {}
    return [
        campaign.ListedJob(
            job_name(job),
            job.rule.name,
            {name: str(value) for name, value in job.wildcards_dict.items()},
            [str(path) for path in job.output],
            campaign.attempts_made(job_name(job)),
            record_of(job, made, checksums) if workflow.dag.needrun(job) else None,
        )
        for job in jobs
    ]


def record_of(job, made, checksums):
    """What Snakemake would record for the outputs of a job, with the checksums of the inputs that no job makes."""
    persistence, inputs = workflow.persistence, [str(path) for path in job.input]
    for path in inputs:
        if path not in checksums and path not in made and os.path.exists(path):
            checksums[path] = file_checksum(path)
    return {
        "rule": job.rule.name,
        "code": persistence._code(job.rule),
        "input": [str(path) for path in persistence._input(job)],
        "log": [str(path) for path in persistence._log(job)],
        "params": persistence._params(job),
        "conda_env": persistence._conda_env(job),
        "software_stack_hash": persistence._software_stack_hash(job),
        "container_img_url": job.container_img_url,
        "input_checksums": {path: checksums[path] for path in inputs if checksums.get(path) is not None},
    }


def job_name(job):
    """Name of a job in the records of attempts: its declared log without folder and suffix."""
    return os.path.splitext(os.path.relpath(str(job.log[0]), "logs"))[0]


def tell_failures_shortly(executor):
    """Replace what a cluster's executor prints of a failed job: a page, and for jobs that share one not why."""

    def print_job_error(job_info, msg=None, aux_logs=(), **kwargs):
        names = [job_name(job) for job in flat([job_info.job])]
        HEAD["messages"].update(dict.fromkeys(names, msg))
        slurm_log = os.path.relpath(aux_logs[0]) if aux_logs and aux_logs[0] else ""
        for line in describe_submission(names, job_info.external_jobid, msg, slurm_log):
            logger.error(line)

    executor.print_job_error = print_job_error


def flat(jobs):
    """Jobs with a log, those of groups one by one."""
    single = [job for entry in jobs for job in (entry.jobs if entry.is_group() else [entry])]
    return [job for job in single if job.log]


def end_head():
    """Say in a few lines what failed; after Ctrl-C make sure that nothing of this run stays in the queue."""
    scheduler = workflow.scheduler
    interrupted = bool(scheduler.running)  # they were given up, not waited for
    campaign.end("interrupted" if interrupted else "failure")
    failed = {job_name(job): HEAD["messages"].get(job_name(job)) for job in flat(scheduler.failed)}
    for line in describe_failures(failed, waiting=len(flat(scheduler.remaining_jobs))):
        logger.error(line)
    if interrupted and workflow.executor_plugin.name == "slurm":
        orphans.cancel_run(scheduler._executor.run_uuid)


if workflow.is_main_process and workflow.workflow_settings.persistence_backend == PersistenceBackend.FILE:
    try:
        HEAD["finished"] = settle_dead_head()
    except (ValueError, OSError) as error:
        raise WorkflowError(str(error)) from None


onstart:
    start_head()


onsuccess:
    campaign.end("success")


onerror:
    end_head()
