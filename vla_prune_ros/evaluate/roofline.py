"""What the machine can do at most: how fast it multiplies, and how fast it moves bytes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

ROWS, INNER, OUTER = 600, 4096, 11008  # the decoder's largest product at 7B shape
COPY_BYTES = 256 * 2**20  # beyond common caches
REPEATS = 5


@dataclass(frozen=True)
class Roofline:
    """Best of a few tries.

    :param tflops: 1e12 operations per second in one large matrix product, two per multiply-add.
    :param gb_per_s: 1e9 bytes per second that a copy reads and writes.
    """

    tflops: float
    gb_per_s: float

    def least_ms(self, flops: float, weight_bytes: float) -> float:
        """No query can be faster: all its products at full rate, or every weight read once."""
        return 1e3 * max(flops / (1e12 * self.tflops), weight_bytes / (1e9 * self.gb_per_s))


def measure_roofline(device: torch.device, dtype: torch.dtype) -> Roofline:
    """Time a product of the model's shape and a copy, on ``device`` in ``dtype``."""
    a = torch.randn(ROWS, INNER, device=device).to(dtype)
    b = torch.randn(OUTER, INNER, device=device).to(dtype)
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best_s(lambda: torch.nn.functional.linear(a, b), device)
    copy = _best_s(lambda: target.copy_(source), device)
    return Roofline(2e-12 * ROWS * INNER * OUTER / product, 2e-9 * COPY_BYTES / copy)


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 1):  # the first one warms up
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
