"""`coread visualize --model-path X --save-folder D`: figures of what a trained model has learned."""

import argparse
from pathlib import Path

from coread.failure import reported_errors


def main(argv: list[str]) -> None:
    """Run the command; exits with status 1 and one sentence for a model that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="coread visualize",
        description="Draw every filter of the core, every readout mask and every neuron's gradient receptive field of "
        "a trained model, as PNG and PDF with a caption as TXT.",
    )
    parser.add_argument("--model-path", required=True, help="a model.ckpt of coread, or a published model")
    parser.add_argument("--save-folder", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="where gradients are taken: cpu or cuda")
    arguments = parser.parse_args(argv)
    with reported_errors(in_terminal=True):
        from coread.models.pretrained import load_core_readout_model
        from coread.plotting.weights import write_core_filters, write_gradient_fields, write_readout_masks

        model = load_core_readout_model(arguments.model_path, arguments.device)
        folder: Path = arguments.save_folder
        written = [
            *write_core_filters(model.core, folder),
            *write_readout_masks(model.readout, folder),
            *write_gradient_fields(model, folder),
        ]
        print(f"wrote {len(written)} files to {folder}")
