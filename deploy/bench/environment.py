"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "numba", "faust-streaming", "aiokafka", "rocksdict")


def environment() -> dict[str, Any]:
    """Return the machine and the versions that a figure belongs to, as plain JSON values."""
    models = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": models[0] if models else platform.processor(),
        **gpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
