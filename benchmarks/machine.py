"""What the numbers were measured on."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = [
    "torch",
    "transformers",
    "datasets",
    "steering-vectors",
    "transformer-lens",
    "nnsight",
    "pyvene",
    "sae-lens",
    "eai-sparsify",
]


def machine() -> dict[str, Any]:
    """Processor, memory, GPU, what else ran, and versions of what is compared."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load": psutil.getloadavg()[0],
        "system": platform.platform(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def commit(folder: Path = Path(__file__).parent) -> str:
    """What is measured: the commit, and `-dirty` where Python files differ from it.

    Other files may: measuring and reporting write some.
    """
    told = ["git", "rev-parse", "HEAD"]
    number = subprocess.run(told, cwd=folder, check=True, capture_output=True, text=True).stdout
    told = ["git", "diff", "--name-only", "HEAD", "--", ":/*.py"]
    changed = subprocess.run(told, cwd=folder, check=True, capture_output=True).stdout
    return number.strip() + ("-dirty" if changed else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
