"""`coread visualize --model-path X --save-folder D`: figures of what a model has learned and how it responds."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coread.extras import import_extra
from coread.failure import reported_errors

if TYPE_CHECKING:
    from coread.models.core_readout import BaseCoreReadout

WEIGHTS, RECEPTIVE_FIELDS = "weights", "receptive_fields"
OWN = (WEIGHTS, RECEPTIVE_FIELDS)  # what is no experiment with settings of its own


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for a model that cannot be read."""
    arguments = _parser().parse_args(argv)
    with reported_errors(in_terminal=True):
        experiments = {name: _settings(name) for name in arguments.experiments if name not in OWN}
        if "mp4" in arguments.movies:  # before hours of computing, not after
            import_extra("imageio_ffmpeg", "movies", "an MP4 file")
        models = _load_models(arguments.model_path, arguments.device, arguments.rate_hz, arguments.pixel_um)
        written: list[Path] = []
        if WEIGHTS in arguments.experiments:
            written += _write_weights(models[0], arguments.save_folder)
        if RECEPTIVE_FIELDS in arguments.experiments:
            written += _write_fields(models, arguments.save_folder)
        for name, settings in experiments.items():
            written += _write_experiment(Path(name).stem, settings, models, arguments)
        print(f"wrote {len(written)} files to {arguments.save_folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="coread visualize",
        description="Draw every filter of the core, every readout mask and every neuron's gradient receptive field of "
        "a trained model, or run in-silico experiments on it. Figures are PNG and PDF with a caption as TXT, results "
        "HDF5 and CSV, stimuli movies.",
    )
    parser.add_argument(
        "--model-path",
        required=True,
        nargs="+",
        help="a model.ckpt of coread, a published model or folder; several are members of an ensemble",
    )
    parser.add_argument("--save-folder", type=Path, required=True)
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=list(OWN),
        metavar="NAME",
        help="names of files in configs/insilico/, or YAML files; weights: filters and masks (default: %(default)s)",
    )
    parser.add_argument("--neurons", type=int, nargs="+", help="numbers of neurons in their session (default: all)")
    parser.add_argument("--movies", choices=("gif", "mp4"), nargs="+", default=["gif"], help="format of stimuli")
    parser.add_argument("--rate-hz", type=float, help="bins per second, for models that do not know")
    parser.add_argument("--pixel-um", type=float, help="width of a pixel on the retina, for models that do not know")
    parser.add_argument("--device", default="cpu", help="where responses and gradients are computed: cpu or cuda")
    return parser


def _settings(name: str) -> Mapping[str, Any]:
    """Return the settings of an experiment by its name, or those of a YAML file."""
    from coread.config import analysis_settings

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return analysis_settings(name)
    import yaml

    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{name}: expected settings of an in-silico experiment, found {type(settings).__name__}")
    return settings


def _load_models(
    paths: Sequence[str], device: str, rate_hz: float | None, pixel_um: float | None
) -> list["BaseCoreReadout"]:
    from coread.models.pretrained import find_model_file, load_core_readout_model, load_ensemble
    from coread.models.pretrained.folder import is_ensemble

    models: list[Any] = []
    for path in paths:
        file = find_model_file(path)
        if file.is_dir() and is_ensemble(file):
            models += load_ensemble(file, device).members
        else:
            models.append(load_core_readout_model(file, device))
    for model in models:
        told = {"rate_hz": rate_hz, "pixel_um": pixel_um}
        model.data_info |= {name: value for name, value in told.items() if value is not None}
    return models


def _write_weights(model: "BaseCoreReadout", folder: Path) -> list[Path]:
    from coread.plotting.weights import write_core_filters, write_readout_masks

    return [*write_core_filters(model.core, folder), *write_readout_masks(model.readout, folder)]


def _write_fields(models: Sequence["BaseCoreReadout"], folder: Path) -> list[Path]:
    """Write receptive fields at a grey screen and their table; draw every neuron of the first model."""
    from coread.config import compose_group
    from coread.insilico.fields_at_grey import fields_at_grey
    from coread.insilico.receptive_fields import write_receptive_fields
    from coread.plotting.weights import write_gradient_fields

    fields = fields_at_grey(models, compose_group("insilico", RECEPTIVE_FIELDS))
    files = [folder / f"{RECEPTIVE_FIELDS}{suffix}" for suffix in (".h5", ".csv")]
    write_receptive_fields(fields, *files)
    return [*files, *write_gradient_fields(models[0], folder)]


def _write_experiment(
    name: str, settings: Mapping[str, Any], models: Sequence["BaseCoreReadout"], arguments: argparse.Namespace
) -> list[Path]:
    """Run an experiment; write its result, and its figures into a folder of its name."""
    from coread.insilico.experiment import write_results
    from coread.insilico.running import finish_experiment, load_experiment, run_experiment
    from coread.models.extension import model_digest
    from coread.models.pretrained import find_model_file
    from coread.plotting.analyses import write_analysis_figures

    experiment = load_experiment(settings)
    share = run_experiment(experiment, models, neurons=arguments.neurons, device=arguments.device)
    if not share:
        raise ValueError(f"--neurons {arguments.neurons}: no session of the model has any of these")
    results = finish_experiment(experiment, [share])
    members = {path: model_digest(find_model_file(path)) for path in arguments.model_path}
    h5_path, csv_path = (arguments.save_folder / f"{name}{suffix}" for suffix in (".h5", ".csv"))
    write_results(results, h5_path, csv_path, {"settings": dict(settings), "members": members})
    return [
        h5_path,
        csv_path,
        *write_analysis_figures(arguments.save_folder / name, experiment, results, arguments.movies),
    ]
