"""What the rules share: the catalogue, paths, code lists and resources; no rules."""

import functools
import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from coread.catalogue import Catalogue
from coread.config import STAGES, ConfigError
from coread.signatures import imported_modules, module_file

ROOT = os.path.relpath(workflow.basedir)
PACKAGE = Path(workflow.basedir, "src", "coread")
# inside a container the interpreter is the container's
PYTHON = "python" if workflow.deployment_settings.deployment_method else sys.executable
# modules that a script imports although no number depends on them: an edit there re-runs nothing
NO_NUMBERS = {"coread", "coread.config", "coread.failure", "coread.provenance"}

try:
    CATALOGUE = Catalogue(config, Path(workflow.basedir, "configs"))
    # a job of the running workflow composes at most its own experiment
    if workflow.is_main_process:
        CATALOGUE.check()
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# read by the shell lines of the data rules, where Snakemake does not track it: where data lie changes no number
DATA_DIRS = json.dumps({name: str(folder) for name, folder in CATALOGUE.data_dirs.items()})


# ----------------------------------------------------------------------------------------------------------------- code


def source(path):
    """Path of a file of this repository, relative to where the workflow runs."""
    return os.path.normpath(os.path.join(ROOT, path))


def code_of(name, stage=None):
    """Input function: the modules that decide the numbers of a script, with the classes that the stage's config names."""
    return lambda wildcards: _code(name, _targets(wildcards, stage))


@functools.cache
def _code(name, targets):
    modules = imported_modules([Path(workflow.basedir, f"workflow_scripts/{name}.py")], targets, PACKAGE)
    files = (module_file(module, PACKAGE) for module in modules if module not in NO_NUMBERS)
    return [source(file.relative_to(workflow.basedir)) for file in files]


def _targets(wildcards, stage):
    if stage is None:
        return ()
    text = CATALOGUE.stage_text(wildcards.experiment, stage)
    return tuple(sorted(set(re.findall(r"_target_: (coread\S+)", text))))


# ---------------------------------------------------------------------------------------------------------------- paths


def dataset_files(suffix):
    """Input function: one file per session of the dataset of an experiment."""
    return lambda wildcards: _dataset_files(CATALOGUE.dataset(wildcards.experiment), suffix)


def _dataset_files(dataset, suffix):
    return [f"results/data/{dataset}/{session}.{suffix}" for session in CATALOGUE.sessions(dataset)]


def shared_stimuli(wildcards):
    """Input function: the file that the recordings of an experiment link their stimuli to."""
    return f"results/data/{CATALOGUE.dataset(wildcards.experiment)}/stimuli.h5"


def member_files(name):
    """Input function: one file per member of an experiment."""
    return lambda wildcards: _member_files(wildcards.experiment, name)


def _member_files(experiment, name):
    return [f"results/{experiment}/fold{fold}/seed{seed}/{name}" for fold, seed in CATALOGUE.members(experiment)]


def _experiment_files(name):
    return [f"results/{experiment}/{name}" for experiment in CATALOGUE.experiments]


# -------------------------------------------------------------------------------------------------------------- targets


def collect_data(wildcards):
    """Every recording of the experiments that are built."""
    datasets = dict.fromkeys(CATALOGUE.dataset(experiment) for experiment in CATALOGUE.experiments)
    return [path for dataset in datasets for path in _dataset_files(dataset, "h5")]


def collect_models(wildcards):
    """Every member."""
    return [path for experiment in CATALOGUE.experiments for path in _member_files(experiment, "model.ckpt")]


def collect_scores(wildcards):
    """One score table per experiment."""
    return _experiment_files("scores.csv")


def collect_insilico(wildcards):
    """Every in-silico analysis that an experiment lists, with its figures."""
    return [
        f"results/{experiment}/{analysis}.{suffix}"
        for experiment in CATALOGUE.experiments
        for analysis in CATALOGUE.analyses(experiment)
        for suffix in ("h5", "csv")
    ]


def collect_tables(wildcards):
    """The paper table, three times."""
    return [f"results/tables/scores.{suffix}" for suffix in ("csv", "md", "tex")]


def collect_report(wildcards):
    """The report."""
    return "results/report.html"


# ------------------------------------------------------------------------------------------------------------ resources


def growing(base):
    """Resource function: twice as much for every further attempt; how many attempts there are is said by the profile."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)
