"""Training steps of a core of either system: python core_step_program.py JOB.json, in that system's environment.

The weights are drawn by coread, which runs first, and read by the peer.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

PENALTIES = dict.fromkeys(("gamma_input", "gamma_temporal", "gamma_in_sparse", "gamma_hidden"), 0.0)


def make_core(job: dict) -> torch.nn.Module:
    """Return the system's core with the weights of coread's."""
    torch.manual_seed(0)
    module = importlib.import_module(f"{job['system']}.modules.core.base_core")
    core = module.SimpleCoreWrapper(**job["core"], **PENALTIES, cut_first_n_frames=0)
    weights = Path(job["folder"]) / "weights.pt"
    if weights.exists():
        core.load_state_dict(torch.load(weights, weights_only=True))
    else:
        for value in core.parameters():  # as drawn, the output would be constant but for rounding
            torch.nn.init.normal_(value, std=0.1)
        torch.save(core.state_dict(), weights)
    return core.to(job["device"]).train()


def main() -> None:
    """Take the steps and write output, seconds and operations."""
    job = json.loads(Path(sys.argv[1]).read_text())
    folder, device = Path(job["folder"]), job["device"]
    core = make_core(job)
    x = torch.randn(*job["shape"], generator=torch.Generator().manual_seed(1)).to(device)
    np.save(folder / f"{job['system']}.npy", core.eval()(x).detach().cpu().numpy())
    core.train()
    optimizer = torch.optim.AdamW(core.parameters(), lr=1e-4)

    def step() -> float:
        begun = time.perf_counter()
        core(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    step()
    seconds = [step() for _ in range(job["steps"])]
    frames = job["shape"][0] * core(x).shape[2]
    row = {"seconds_per_step": float(np.median(seconds)), "frames": frames, "gflop": counter.get_total_flops() / 1e9}
    (folder / "measured.json").write_text(json.dumps(row | {"gflop_per_s": row["gflop"] / row["seconds_per_step"]}))


if __name__ == "__main__":
    main()
