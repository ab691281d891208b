"""GPU memory and utilisation of one job, sampled through nvidia-smi while it runs."""

import os
import shutil
import subprocess
import threading

INTERVAL_S = 5.0
TIMEOUT_S = 20.0
MAX_FAILURES = 3


class GpuUsage:
    """Sample the GPUs that CUDA_VISIBLE_DEVICES names, in the background; samples nothing where there are none.

    Memory is the sum over the GPUs of all that is allocated on them (jobs have their GPUs to themselves), in MB of
    2**20 bytes; utilisation is the share of time in which a kernel ran, 0 to 1, mean over samples and GPUs.
    """

    def __init__(self) -> None:
        self.peak_memory_mb: float | None = None
        self._utilizations: list[float] = []
        self._stop = threading.Event()
        self._devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if self._devices not in ("", "-1", "NoDevFiles") and shutil.which("nvidia-smi"):
            threading.Thread(target=self._sample, daemon=True).start()

    @property
    def utilization(self) -> float | None:
        """Mean utilisation, None without a sample."""
        return sum(self._utilizations) / len(self._utilizations) if self._utilizations else None

    def stop(self) -> None:
        """Take no further sample; does not wait for one that is being taken."""
        self._stop.set()

    def _sample(self) -> None:
        failures = 0
        while failures < MAX_FAILURES and not self._stop.is_set():
            failures = 0 if self._sample_once() else failures + 1
            self._stop.wait(INTERVAL_S)

    def _sample_once(self) -> bool:
        command = ["nvidia-smi", f"--id={self._devices}", "--query-gpu=memory.used,utilization.gpu"]
        try:
            done = subprocess.run(
                [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=TIMEOUT_S
            )
            # an answer of a partitioned GPU holds "[N/A]"
            rows = [[float(cell) for cell in line.split(",")] for line in done.stdout.splitlines()]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0 or not rows:
            return False
        self.peak_memory_mb = max(self.peak_memory_mb or 0.0, sum(memory for memory, _ in rows))
        self._utilizations.append(sum(utilization for _, utilization in rows) / 100 / len(rows))
        return True
