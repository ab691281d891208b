"""Which artefacts exist: the experiments of configs/workflow.yaml with their members, datasets and sessions.

The rules ask this module and nothing else. Everything is checked before the first job: names, folds, and that two
experiments never mean different data by one dataset's name. Imports neither torch nor pandas.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from coread.config import (
    RECEPTIVE_FIELDS,
    ConfigError,
    analysis_names,
    analysis_settings,
    canonical_text,
    check_insilico_settings,
    closest,
    experiment_slice,
    stage_text,
)
from coread.provenance import sources_digest
from coread.search.space import experiment_search
from coread.signatures import module_constant

# folders and files of results/ that are no experiment or session
RESERVED = ("data", "downloads", "tables", "stimuli", "config")
SESSION_NAME = r"(?!(?:stimuli|config)\b)[\w.-]+"  # what commands and rules take
REGISTRY = ("files", "source")  # keys of a dataset's config that its download reads, and nothing else
NOT_ANALYSES = ("scores", "consistency", "truth")  # files and folders of an experiment that other rules write
KNOWN_TUNING = ("simulated_tuning",)  # readers whose recordings keep the true tuning of every cell
Member = tuple[int, int]  # fold, seed


class Catalogue:
    """The experiments that can be built (`catalogue`) and those that are (`experiments`)."""

    def __init__(self, workflow: Mapping[str, Any], directory: Path, results: Path = Path("results")) -> None:
        workflow = _numbers(workflow)
        check_workflow(workflow, directory)
        self._workflow = workflow
        self._directory = directory
        self._results = results
        self.names: tuple[str, ...] = tuple(workflow["catalogue"])
        self.experiments: tuple[str, ...] = tuple(workflow["experiments"])
        self.comparisons: Mapping[str, Mapping[str, Any]] = workflow.get("comparisons", {})
        self.data_dirs = {name: Path(folder) for name, folder in workflow["data_dirs"].items()}

    def members(self, experiment: str) -> list[Member]:
        """Return the (fold, seed) pairs of an experiment; `--config seeds= folds=` replace those of crossed ones."""
        members = self._workflow["catalogue"][experiment]["members"]
        if "paired" in members:
            return [(int(fold), int(seed)) for fold, seed in members["paired"]]
        folds = self._workflow.get("folds", members["cross"]["folds"])
        seeds = self._workflow.get("seeds", members["cross"]["seeds"])
        return list(product(folds, seeds))

    def is_packed(self, experiment: str) -> bool:
        """Return whether members of an experiment train together in one job, several at a time."""
        return int(self._workflow["catalogue"][experiment].get("members_per_job", 1)) > 1

    def packs(self, experiment: str) -> list[list[Member]]:
        """Return the members of an experiment by the job that trains them together, in the order of `members`."""
        members, size = self.members(experiment), int(self._workflow["catalogue"][experiment]["members_per_job"])
        return [members[start : start + size] for start in range(0, len(members), size)]

    def pack_of(self, experiment: str, fold: int, seed: int) -> int:
        """Return which of `packs` trains a member; raises ConfigError for one that the experiment does not list."""
        for number, pack in enumerate(self.packs(experiment)):
            if (fold, seed) in pack:
                return number
        raise ConfigError(
            f"{experiment} trains its members together and lists none of fold {fold} and seed {seed}: add it to "
            "`members`, or remove `members_per_job`"
        )

    def compared(self, comparison: str) -> list[str]:
        """Return the experiments of a comparison that are built, in its order; none if there is nothing to compare.

        There is something to compare if the baseline and another row are built.
        """
        config = self.comparisons[comparison]
        built = [row["experiment"] for row in config["rows"] if row["experiment"] in self.experiments]
        return built if config["baseline"] in built and len(built) > 1 else []

    def analyses(self, experiment: str) -> list[str]:
        """Return the in-silico analyses of an experiment."""
        return list(self._workflow["catalogue"][experiment].get("insilico", []))

    @property
    def known_analyses(self) -> list[str]:
        """Return the in-silico analyses that there are, without receptive fields, which have a rule of their own."""
        return [name for name in analysis_names(self._directory) if name != RECEPTIVE_FIELDS]

    def analysis_text(self, experiment: str, analysis: str) -> str:
        """Return the canonical text of the settings of an in-silico analysis; raises ConfigError."""
        return canonical_text(analysis_settings(analysis, experiment, self._directory))

    def has_truth(self, experiment: str) -> bool:
        """Return whether the recordings of an experiment keep the true tuning of every cell."""
        return self._data_config(experiment).get("reader") in KNOWN_TUNING

    def shards(self, analysis: str) -> int:
        """Return how many jobs share the neurons of an in-silico analysis."""
        shards = self._workflow.get("insilico_shards", 1)
        return int(shards if isinstance(shards, int) else shards.get(analysis, shards.get("default", 1)))

    def has_search(self, experiment: str) -> bool:
        """Return whether the target `search` searches the hyper-parameters of an experiment."""
        return bool(self._workflow["catalogue"][experiment].get("search", False))

    def search_text(self, experiment: str) -> str:
        """Return the canonical text of what the search of an experiment reads: its space, and its train settings."""
        return canonical_text(experiment_search(experiment, self._directory))

    def search_workers(self, experiment: str) -> int:
        """Return how many trials of a search run at once."""
        return int(experiment_search(experiment, self._directory)["search"]["parallel"])

    def stage_text(self, experiment: str, stage: str) -> str:
        """Return the canonical text of one stage's settings."""
        return stage_text(experiment, stage, self._directory)

    def uses_sta(self, experiment: str) -> bool:
        """Return whether members of an experiment start from spike-triggered averages that can be computed before.

        The lag of a model with a trained core is known only where that core lies.
        """
        train = experiment_slice(experiment, "train", self._directory)
        return train["initialization"].get("method") == "sta" and train.get("pretrained_core") is None

    def num_processes(self, experiment: str) -> int:
        """Return how many processes train one member of an experiment together."""
        trainer = experiment_slice(experiment, "train", self._directory)["trainer"]
        return int(trainer.get("num_processes", 1))

    @functools.cache  # noqa: B019 (one catalogue per process)
    def dataset(self, experiment: str) -> str:
        """Return the name of the dataset an experiment is trained on.

        Raises ConfigError if an experiment that is only a target means other data by it than those that are built.
        """
        dataset = str(self._data_config(experiment)["dataset"])
        if experiment not in self.experiments:
            self._check_same_data(self._experiment_on(dataset), experiment)
        return dataset

    def data_text(self, dataset: str) -> str:
        """Return the canonical text of a dataset's settings, without where its files come from."""
        config = self._data_config(self._experiment_on(dataset))
        return canonical_text({key: value for key, value in config.items() if key not in REGISTRY})

    def registry_text(self, dataset: str) -> str:
        """Return the canonical text of what a dataset's download depends on; raises ConfigError."""
        from coread.data_io.download import registry_text  # here: most campaigns download nothing

        try:
            return registry_text(self._data_config(self._experiment_on(dataset)))
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def is_downloaded(self, dataset: str) -> bool:
        """Return whether the workflow downloads a dataset: its files are published and no folder was named for it."""
        return dataset not in self.data_dirs and bool(self._data_config(self._experiment_on(dataset)).get("files"))

    def has_quality_filters(self, dataset: str) -> bool:
        """Return whether cells of a dataset are chosen by quality filters, which are then tabulated."""
        return bool(self._data_config(self._experiment_on(dataset)).get("quality_filters"))

    def reader_text(self, dataset: str) -> str:
        """Return which module reads a dataset, written as a setting; raises ConfigError for an unknown reader."""
        readers = module_constant("coread.data_io.sources", "READERS")
        reader = self._data_config(self._experiment_on(dataset)).get("reader")
        if reader not in readers:
            raise ConfigError(f"dataset {dataset!r}: unknown reader {reader!r}{closest(str(reader), readers)}")
        return f"_target_: {readers[reader]}"

    def data_dir(self, dataset: str) -> Path | None:
        """Return the folder a local dataset is read from, None if none was named."""
        return self.data_dirs.get(dataset)

    @functools.cache  # noqa: B019 (one catalogue per process)
    def sessions(self, dataset: str) -> tuple[str, ...]:
        """Return the sessions of a dataset: those its config lists, else those found in its folder.

        Raises ConfigError if there are none.
        """
        config = self._data_config(self._experiment_on(dataset))
        found = tuple(str(name) for name in config.get("sessions") or self._found_sessions(dataset, config))
        if not found:
            raise ConfigError(f"dataset {dataset!r}: no sessions in {self.data_dir(dataset)}")
        if wrong := [name for name in found if name in RESERVED]:
            raise ConfigError(f"dataset {dataset!r}: no session may be called {wrong[0]!r}")
        if wrong := [name for name in found if not re.fullmatch(SESSION_NAME, name)]:
            raise ConfigError(
                f"dataset {dataset!r}: the session {wrong[0]!r} cannot name a file of the workflow, expected letters, "
                "digits and _ . -, not 'stimuli' or 'config' first; rename it where its data or config names it"
            )
        return found

    @functools.cache  # noqa: B019
    def source_digest(self, dataset: str, session: str | None) -> str:
        """Return a digest of the raw files behind a session (None: behind the shared stimuli).

        The files of a downloaded dataset stand in the summary of its download, which the rules compare.
        """
        if (folder := self.data_dir(dataset)) is None:
            return "none"
        from coread.data_io.sources import source_files  # here: h5py and pandas are not needed without a local folder

        files = source_files(self._data_config(self._experiment_on(dataset)), session, folder)
        return sources_digest(files, self._results / "data" / dataset / f"{session or 'stimuli'}.source.json")

    def check(self) -> None:
        """Compose the experiments and check folds and datasets; raises ConfigError naming what does not fit.

        The others of the catalogue are composed when a file of theirs is a target: dozens would take seconds.
        """
        for experiment in self.experiments:
            self._check_folds(experiment)
            self._check_packs(experiment)
            if self.has_search(experiment):
                self.search_text(experiment)
            self._check_same_data(self._experiment_on(self.dataset(experiment)), experiment)
            self._check_analyses(experiment)
        self._check_shards()
        built = {self.dataset(experiment) for experiment in self.experiments}
        if unknown := [name for name in self.data_dirs if name not in built]:
            known = built | {self.dataset(experiment) for experiment in self.names}
            if wrong := [name for name in unknown if name not in known]:
                raise ConfigError(f"data_dirs names the unknown dataset {wrong[0]!r}{closest(wrong[0], known)}")
        for dataset in sorted(built):
            self.sessions(dataset)
            if self.is_downloaded(dataset):
                self.registry_text(dataset)

    def _check_same_data(self, first: str, second: str) -> None:
        texts = [canonical_text(self._data_config(experiment)) for experiment in (first, second)]
        if texts[0] != texts[1]:
            raise ConfigError(
                f"{first} and {second} both read dataset {self._data_config(first)['dataset']!r} but with different "
                f"settings ({_first_difference(*texts)}); give one of them another dataset name"
            )

    def _check_analyses(self, experiment: str) -> None:
        check_insilico_settings(experiment, self._directory)
        for analysis in self.analyses(experiment):
            if analysis in NOT_ANALYSES:
                raise ConfigError(f"workflow config: no in-silico analysis may be called {analysis!r}")
            if analysis != RECEPTIVE_FIELDS:
                self.analysis_text(experiment, analysis)

    def _check_shards(self) -> None:
        shards = self._workflow.get("insilico_shards", 1)
        known = ["default", *self.known_analyses]
        if unknown := [] if isinstance(shards, int) else [name for name in shards if name not in known]:
            raise ConfigError(
                f"workflow config: insilico_shards: unknown analysis {unknown[0]!r}{closest(unknown[0], known)}"
            )

    def _check_folds(self, experiment: str) -> None:
        splits = experiment_slice(experiment, "train", self._directory)["splits"]
        n_folds = int(splits.get("n_folds", 1))
        if wrong := sorted({fold for fold, _ in self.members(experiment) if not 0 <= fold < n_folds}):
            raise ConfigError(
                f"{experiment}: fold {wrong[0]} does not exist, its split has {n_folds} folds (0 to {n_folds - 1})"
            )

    def _check_packs(self, experiment: str) -> None:
        if self.is_packed(experiment) and (processes := self.num_processes(experiment)) > 1:
            raise ConfigError(
                f"workflow config: {experiment}: members_per_job trains members in one process, but "
                f"trainer.num_processes is {processes}: remove one of them"
            )

    def _data_config(self, experiment: str) -> dict[str, Any]:
        return experiment_slice(experiment, "data", self._directory)["data_io"]

    @functools.cache  # noqa: B019
    def _experiment_on(self, dataset: str) -> str:
        for experiment in (*self.experiments, *self.names):
            if self._data_config(experiment)["dataset"] == dataset:
                return experiment
        raise ConfigError(f"no experiment of the catalogue reads dataset {dataset!r}")

    def _found_sessions(self, dataset: str, config: Mapping[str, Any]) -> Sequence[str]:
        if self.is_downloaded(dataset):
            raise ConfigError(
                f"dataset {dataset!r} would be downloaded, but its config lists no sessions, so what follows cannot be "
                f"planned: set `sessions: [...]`, or fetch it first (`coread download {dataset} --to DIR`) and add "
                f'"data_dirs={{{dataset}: DIR/{dataset}}}"'
            )
        if (folder := self.data_dir(dataset)) is None:
            raise ConfigError(
                f'dataset {dataset!r} is read from a folder: name it with --config "data_dirs={{{dataset}: DIR}}"'
            )
        if not folder.is_dir():
            raise ConfigError(f"data_dirs: the folder of dataset {dataset!r} does not exist: {folder}")
        from coread.data_io.sources import list_sessions  # here: h5py and pandas are needed only for local folders

        return list_sessions(config, folder)


def check_workflow(workflow: Mapping[str, Any], directory: Path) -> None:
    """Check configs/workflow.yaml, with what `--config` added, against its schema; raises ConfigError."""
    import jsonschema

    schema = json.loads((directory / "workflow.schema.json").read_text(encoding="utf-8"))
    if unknown := [key for key in workflow if key not in schema["properties"]]:
        raise ConfigError(f"workflow config: unknown key {unknown[0]!r}{closest(unknown[0], schema['properties'])}")
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(workflow))
    if errors:
        error = jsonschema.exceptions.best_match(errors)
        where = ".".join(str(part) for part in error.absolute_path) or "top level"
        raise ConfigError(f"workflow config: {where}: {error.message}")
    catalogue = workflow["catalogue"]
    for experiment in workflow["experiments"]:
        if experiment not in catalogue:
            raise ConfigError(f"workflow config: unknown experiment {experiment!r}{closest(experiment, catalogue)}")
    for name, comparison in workflow.get("comparisons", {}).items():
        _check_comparison(name, comparison, catalogue)
    if wrong := [name for name in catalogue if name in RESERVED]:
        raise ConfigError(f"workflow config: no experiment may be called {wrong[0]!r}")
    for key in ("seeds", "folds"):
        paired = [name for name in workflow["experiments"] if "paired" in catalogue[name]["members"]]
        if key in workflow and paired:
            raise ConfigError(
                f"{key}=... crosses folds and seeds, but the members of {paired[0]!r} are listed in pairs"
            )


def _check_comparison(name: str, comparison: Mapping[str, Any], catalogue: Mapping[str, Any]) -> None:
    """Check that the rows of a comparison are different experiments, the baseline among them; raises ConfigError."""
    rows = [row["experiment"] for row in comparison["rows"]]
    where = f"workflow config: comparisons.{name}"
    for experiment in rows:
        if experiment not in catalogue:
            raise ConfigError(f"{where}: unknown experiment {experiment!r}{closest(experiment, catalogue)}")
        if rows.count(experiment) > 1:
            raise ConfigError(f"{where}: {experiment} is named twice")
    if (baseline := comparison["baseline"]) not in rows:
        raise ConfigError(f"{where}: the baseline {baseline!r} is none of its rows{closest(baseline, rows)}")


def _numbers(workflow: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain containers; numbers inside lists of Snakemake's `--config` arrive as text."""
    plain = json.loads(json.dumps(workflow, default=str))
    for key in ("seeds", "folds"):
        if isinstance(plain.get(key), list):
            plain[key] = [int(entry) if str(entry).isdecimal() else entry for entry in plain[key]]
    if isinstance(shards := plain.get("insilico_shards"), dict):
        plain["insilico_shards"] = {key: int(n) if str(n).isdecimal() else n for key, n in shards.items()}
    return plain


def _first_difference(first: str, second: str) -> str:
    pairs = zip(first.splitlines(), second.splitlines(), strict=False)
    return next((f"{one.strip()!r} against {other.strip()!r}" for one, other in pairs if one != other), "more keys")
