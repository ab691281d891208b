"""What the rules share: the catalogue, paths, code digests and resources; no rules."""

import functools
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from coread.catalogue import SESSION_NAME, Catalogue
from coread.config import RECEPTIVE_FIELDS, STAGES
from coread.signatures import code_digest

# Slurm warns of pre-emption and time limits with these, and sends them to every process of a job: the Snakemake inside a
# job would die of them, and its training would go on beside the one that the requeued job starts
for warning in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(warning, signal.SIG_IGN)

ROOT = os.path.relpath(workflow.basedir)
PACKAGE = Path(workflow.basedir, "src", "coread")

try:
    CATALOGUE = Catalogue(config, Path(workflow.basedir, "configs"))
    # a job of the running workflow composes at most its own experiment
    if workflow.is_main_process:
        CATALOGUE.check()
except (ValueError, OSError) as error:
    raise WorkflowError(str(error)) from None

# `python` is the one that runs Snakemake; in a container, which may see that folder too, the image's. The code is this
# checkout's in both.
# Where data lie reaches the scripts through the environment, which Snakemake does not track: it changes no number.
# `attempt LOG command ...` becomes the supervisor of one attempt: it keeps the attempt's log and record, and ends the
# command with this Snakemake (coread/supervisor.py); -P: a folder of the working directory must not shadow a module.
shell.prefix(
    'attempt() {{ local log=$1; shift; exec python -P -m coread.supervisor --parent $PPID "$log" -- "$@"; }}; '
    'test -n "${{APPTAINER_CONTAINER:-}}${{SINGULARITY_CONTAINER:-}}" || PATH={path}:$PATH; '
    "set -euo pipefail; export MPLBACKEND=Agg PATH PYTHONPATH={package}${{PYTHONPATH:+:$PYTHONPATH}} "
    "COREAD_DATA_DIRS={data_dirs} COREAD_MODEL_FILES={model_files}; ".format(
        path=shlex.quote(os.path.dirname(sys.executable)),
        package=shlex.quote(str(PACKAGE.parent)),
        data_dirs=shlex.quote(json.dumps(dict(config["data_dirs"]))),
        model_files=shlex.quote(json.dumps(dict(config.get("model_files", {})))),
    )
    .replace("{", "{{")
    .replace("}", "}}")
)


# ----------------------------------------------------------------------------------------------------------------- code


def source(path):
    """Path of a file of this repository, relative to where the workflow runs."""
    return os.path.normpath(os.path.join(ROOT, path))


FIGURES = ("coread.plotting",)  # code that draws what a result holds, and decides nothing in it


def code_of(name, *stages, without=()):
    """Parameter function: a digest of the code that decides a script's numbers, the classes its settings name included.

    `without` are packages whose edits do not count.

    A parameter and not a list of input files: Snakemake would look up dozens of files for every member, and would take
    code that was edited while a job ran, so before its outputs were written, for the code that made them.
    """
    return lambda wildcards: _code(name, "".join(_settings(wildcards, stage) for stage in stages), without)


@functools.cache
def _code(name, settings, without):
    return code_digest(Path(workflow.basedir, f"workflow_scripts/{name}.py"), settings, PACKAGE, without)


def _settings(wildcards, stage):
    if stage == "data":
        return CATALOGUE.reader_text(wildcards.dataset)
    if stage == "analysis":
        return CATALOGUE.analysis_text(wildcards.experiment, wildcards.analysis)
    return CATALOGUE.stage_text(wildcards.experiment, stage)


# ---------------------------------------------------------------------------------------------------------------- paths


def dataset_files(suffix):
    """Input function: one file per session of the dataset of an experiment."""
    return lambda wildcards: _dataset_files(CATALOGUE.dataset(wildcards.experiment), suffix)


def dataset_file(suffix):
    """Input function: the file of one session of the dataset of an experiment."""
    return lambda wildcards: f"results/data/{CATALOGUE.dataset(wildcards.experiment)}/{wildcards.session}.{suffix}"


def _dataset_files(dataset, suffix):
    return [f"results/data/{dataset}/{session}.{suffix}" for session in CATALOGUE.sessions(dataset)]


def downloaded_files(wildcards):
    """Input function: the summary of a dataset's download, nothing for a dataset of this machine."""
    return [f"results/downloads/{wildcards.dataset}.json"] if CATALOGUE.is_downloaded(wildcards.dataset) else []


def shared_stimuli(wildcards):
    """Input function: the file that the recordings of an experiment link their stimuli to."""
    return f"results/data/{CATALOGUE.dataset(wildcards.experiment)}/stimuli.h5"


def sta_files(suffix):
    """Input function: the spike-triggered averages of a fold's training bins, if members start from them."""
    return lambda wildcards: _sta_files(wildcards.experiment, [wildcards.fold], suffix)


def sta_option(wildcards):
    """Parameter function: where members find the averages that they start from, nothing if they do not."""
    return f"--stas results/{wildcards.experiment}" if CATALOGUE.uses_sta(wildcards.experiment) else ""


def pack_sta_files(suffix):
    """Input function: the same for all folds of the members that train together."""

    def files(wildcards):
        folds = sorted({member.split(":")[0] for member in pack_members(wildcards)})
        return _sta_files(wildcards.experiment, folds, suffix)

    return files


def _sta_files(experiment, folds, suffix):
    if not CATALOGUE.uses_sta(experiment):
        return []
    sessions = CATALOGUE.sessions(CATALOGUE.dataset(experiment))
    return [f"results/{experiment}/fold{fold}/sta/{session}.{suffix}" for fold in folds for session in sessions]


def member_files(name):
    """Input function: one file per member of an experiment."""
    return lambda wildcards: _member_files(wildcards.experiment, name)


def _member_files(experiment, name):
    return [f"results/{experiment}/fold{fold}/seed{seed}/{name}" for fold, seed in CATALOGUE.members(experiment)]


def experiments(packed):
    """Pattern of the experiments whose members train together, or of the others."""
    return "|".join(name for name in CATALOGUE.names if CATALOGUE.is_packed(name) == packed) or "(?!)"


def pack_file(wildcards):
    """Input function: what the job that trained a member with others wrote."""
    pack = CATALOGUE.pack_of(wildcards.experiment, int(wildcards.fold), int(wildcards.seed))
    return f"results/{wildcards.experiment}/packs/pack{pack}.json"


def pack_members(wildcards):
    """Parameter function: the members that one job trains together, as fold:seed."""
    packs = CATALOGUE.packs(wildcards.experiment)
    if int(wildcards.pack) >= len(packs):
        raise WorkflowError(f"{wildcards.experiment} has packs 0 to {len(packs) - 1}, not {wildcards.pack}")
    return [f"{fold}:{seed}" for fold, seed in packs[int(wildcards.pack)]]


def analysis_files(analysis, suffix):
    """Input function: the result of an in-silico analysis, if the experiment lists it."""
    return lambda wildcards: (
        [f"results/{wildcards.experiment}/{analysis}.{suffix}"]
        if analysis in CATALOGUE.analyses(wildcards.experiment)
        else []
    )


def shard_files(suffix):
    """Input function: one file per job that shares the neurons of an in-silico analysis."""
    return lambda wildcards: [
        f"results/{wildcards.experiment}/insilico/{wildcards.analysis}/shard{shard}.{suffix}"
        for shard in range(CATALOGUE.shards(wildcards.analysis))
    ]


def result_files(suffix):
    """Input function: the joined result of every in-silico analysis that an experiment lists."""
    return lambda wildcards: _result_files(wildcards.experiment, suffix)


def _result_files(experiment, suffix):
    return [f"results/{experiment}/{analysis}.{suffix}" for analysis in CATALOGUE.analyses(experiment)]


def _experiment_files(name):
    return [f"results/{experiment}/{name}" for experiment in CATALOGUE.experiments]


# -------------------------------------------------------------------------------------------------------------- targets


def collect_data(suffix):
    """Input function: one file per recording of the experiments that are built."""
    return lambda wildcards: [
        path
        for dataset in dict.fromkeys(CATALOGUE.dataset(experiment) for experiment in CATALOGUE.experiments)
        for path in _dataset_files(dataset, suffix)
    ]


def collect_quality(wildcards):
    """What quality filters removed, of the datasets that have such filters."""
    datasets = dict.fromkeys(CATALOGUE.dataset(experiment) for experiment in CATALOGUE.experiments)
    return [f"results/data/{dataset}/quality.csv" for dataset in datasets if CATALOGUE.has_quality_filters(dataset)]


def collect_members(name):
    """Input function: one file per member of the experiments that are built."""
    return lambda wildcards: [path for experiment in CATALOGUE.experiments for path in _member_files(experiment, name)]


def collect_experiments(name):
    """Input function: one file per experiment that is built."""
    return lambda wildcards: _experiment_files(name)


def compared_files(name):
    """Input function: one file per experiment of a comparison that is built."""

    def files(wildcards):
        if built := CATALOGUE.compared(wildcards.comparison):
            return [f"results/{experiment}/{name}" for experiment in built]
        raise WorkflowError(
            f"comparison {wildcards.comparison}: its baseline and another of its rows must be among `experiments`"
        )

    return files


def comparison_text(wildcards):
    """Parameter function: what a comparison compares, as JSON."""
    return json.dumps(CATALOGUE.comparisons[wildcards.comparison], sort_keys=True)


def collect_comparisons(suffix):
    """Input function: one file per comparison that has something to compare."""
    return lambda wildcards: [
        f"results/tables/comparison_{name}{suffix}" for name in CATALOGUE.comparisons if CATALOGUE.compared(name)
    ]


def collect_insilico(wildcards):
    """Every in-silico analysis that an experiment lists: results, figures, and how they compare with a known truth."""
    return [path for experiment in CATALOGUE.experiments for path in _insilico_files(experiment)]


def _insilico_files(experiment):
    analyses, folder = _analyses(experiment), f"results/{experiment}/insilico"
    files = [path for suffix in ("h5", "csv") for path in _result_files(experiment, suffix)]
    files += [f"{folder}/{analysis}/figures" for analysis in analyses]
    if analyses and len(CATALOGUE.members(experiment)) > 1:
        files.append(f"{folder}/consistency")
    if files and CATALOGUE.has_truth(experiment):
        files.append(f"{folder}/truth")
    return files


def _analyses(experiment):
    """In-silico analyses of an experiment that are run in shares; receptive fields have a rule of their own."""
    return [analysis for analysis in CATALOGUE.analyses(experiment) if analysis != RECEPTIVE_FIELDS]


def collect_searches(wildcards):
    """Input function: one file per experiment that lists a search in the catalogue."""
    return [
        f"results/{experiment}/search/best.yaml"
        for experiment in CATALOGUE.experiments
        if CATALOGUE.has_search(experiment)
    ]


def collect_configs(wildcards):
    """The settings of every stage and dataset, which the report shows."""
    datasets = dict.fromkeys(CATALOGUE.dataset(experiment) for experiment in CATALOGUE.experiments)
    stages = [
        path for stage in STAGES if stage not in ("data", "sta") for path in _experiment_files(f"config/{stage}.yaml")
    ]
    analyses = [
        f"results/{experiment}/config/insilico/{analysis}.yaml"
        for experiment in CATALOGUE.experiments
        for analysis in _analyses(experiment)
    ]
    return [f"results/data/{dataset}/config.yaml" for dataset in datasets] + stages + analyses


def report_files(wildcards):
    """Members and in-silico analyses of every experiment, as one JSON text.

    A word of a command holds 128 KiB: of a member it tells only the folder, and the recordings are words of their own.
    """
    datasets = {experiment: CATALOGUE.dataset(experiment) for experiment in CATALOGUE.experiments}
    return json.dumps(
        {
            "comparisons": {name: text for name, text in CATALOGUE.comparisons.items() if CATALOGUE.compared(name)},
            "model": "results/{experiment}/{member}/model.ckpt",
            "experiments": {
                experiment: {
                    "dataset": dataset,
                    "members": [f"fold{fold}/seed{seed}" for fold, seed in CATALOGUE.members(experiment)],
                    "analyses": _analyses(experiment),
                }
                for experiment, dataset in datasets.items()
            },
        },
        separators=(",", ":"),
    )


# ------------------------------------------------------------------------------------------------------------ resources
# Short jobs share a submission (`group:`, how many is said by the profile), never across experiments or datasets, whose
# failures would hold each other up. The plugin runs the jobs of a group one after another: `turn=1`, of which the
# profile gives one to a group, makes Snakemake ask for the memory of one job and the time of all.


def growing(base):
    """Resource function: twice as much for every further attempt; how many attempts there are is said by the profile."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


def growing_per_process(base):
    """Resource function: `growing(base)` for every process that trains a member, each of which holds the data."""
    return lambda wildcards, attempt: CATALOGUE.num_processes(wildcards.experiment) * base * 2 ** (attempt - 1)


def growing_per_member(base, each):
    """Resource function: `growing(base)` and `each` for every further member of a pack."""
    return lambda wildcards, attempt: (base + each * (len(pack_members(wildcards)) - 1)) * 2 ** (attempt - 1)


def for_ranks(value=None):
    """Resource function: a value, by default their number, where several processes train a member; nothing elsewhere.

    The plugin starts a rule that has `mpi` outside of any job step, so that the rule can start a step of its own.
    """

    def resource(wildcards):
        processes = CATALOGUE.num_processes(wildcards.experiment)
        if processes == 1:
            return None
        return processes if value is None else value

    return resource


# ------------------------------------------------------------------------------------------------------------ search


def on_cluster():
    """Whether this run submits jobs to SLURM: then its searches submit their trials there too."""
    return workflow.executor_plugin is not None and workflow.executor_plugin.name == "slurm"


def trials_at_once(wildcards):
    """Cores of this host that a search takes: one per trial, none worth naming if the trials run on a cluster."""
    return 1 if on_cluster() else CATALOGUE.search_workers(wildcards.experiment)


# what it returns changes no number, and Snakemake does not track params that are computed from resources
def trial_jobs(wildcards, resources, threads):
    """Where the trials of a search run and what each asks for, as JSON: what the profile says about run_search."""
    options = shlex.split(resources.get("slurm_extra", ""))
    jobs = {
        "executor": "slurm" if on_cluster() else "local",
        "partition": resources.get("slurm_partition"),
        "account": resources.get("slurm_account"),
        "qos": resources.get("qos"),
        "constraint": resources.get("constraint"),
        "gpus": ":".join(str(resources.get(name)) for name in ("gpu_model", "gpu") if resources.get(name)) or None,
        "gres": resources.get("gres"),
        "cpus": resources.get("trial_cpus") if on_cluster() else 1,
        "mem_mb": resources.mem_mb // threads,
        "timeout_min": resources.runtime if on_cluster() else None,
        "poll_s": 15.0 if on_cluster() else 1.0,
        "extra": dict(option.removeprefix("--").split("=", 1) for option in options),
    }
    return json.dumps(jobs)
