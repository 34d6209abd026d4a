"""A copy of the project's configuration and stages in another folder, and the command run there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
SIZES = {"train": 8, "val": 4, "test": 6}
# One layer, one strength and few prompts: what a test can afford.
SMALL = [
    "study=refusal",
    "dataset.path=data/few.jsonl",
    "sweep.layers=[3]",
    "sweep.decoding.max_new_tokens=8",
    "vectors.selection=null",
    "vectors.controls={shuffled: 1, covariance: 0, isotropic: 1}",
    "collect.rows_per_shard=20",
    "sweep.arms.add.strengths=[1.0]",
    "sweep.arms.subtract.strengths=[1.0]",
    "model.batch_tokens=600",
]


def copy_project(folder: Path) -> Path:
    """conf/ and stages/ copied, data/ linked file by file, with few.jsonl added."""
    for name in ("conf", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    for path in (ROOT / "data").iterdir():
        (folder / "data" / path.name).symlink_to(path)
    rows = pd.read_json(ROOT / "data" / "instructions.jsonl", lines=True)
    few = [
        rows[(rows["label"] == label) & (rows["split"] == split)].head(size)
        for label in ("harmful", "harmless")
        for split, size in SIZES.items()
    ]
    pd.concat(few).to_json(folder / "data" / "few.jsonl", orient="records", lines=True)
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", *arguments]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "WANDB_MODE": "disabled",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        "COLUMNS": "100",
    }


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command `actsweep` in the folder."""
    return subprocess.run(
        command(folder, *arguments), cwd=folder, env=environment(), capture_output=True, text=True
    )
