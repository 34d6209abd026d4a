"""A copy of the project's configuration and stages in another folder, and the command run there."""

import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pandas as pd

from pipeline.config.study import compose_study, save_study

ROOT = Path(__file__).parents[1]
SIZES = {"train": 8, "val": 4, "test": 6}
# One layer, one strength and few prompts: what a test can afford.
SMALL = ["small"]
STUDY = """# @package _global_
defaults:
  - /model: embedded
  - /dataset: instructions
  - /fit@fits.direction: steering_vectors
  - /arm@sweep.arms.add: add
  - /arm@sweep.arms.subtract: subtract
  - /arm@sweep.arms.project_out: project_out
  - /metric@score.metrics.refusal: refusal
  - /metric@score.metrics.compliance: compliance
  - /metric@score.metrics.at_length_limit: at_length_limit
  - /figure@figures.effect_by_layer: effect_by_layer
  - /figure@figures.strength_by_layer: strength_by_layer
  - _self_
name: small
question: Does it work?
text: data/plain_text.jsonl
model: {batch_tokens: 600}
dataset: {path: data/few.jsonl}
collect: {components: [resid_pre], positions: template, rows_per_shard: 20}
fits:
  direction:
    component: resid_pre
    positive: harmful
    negative: harmless
    controls: {shuffled: 1, covariance: 0, isotropic: 1}
sweep:
  layers: [3]
  decoding: {max_new_tokens: 8}
  arms:
    add:
      fit: direction
      prompts: harmless
      components: [resid_pre]
      strengths: [1.0]
      positions: [last, all]
      metric: refusal
      goal: raise
    subtract:
      fit: direction
      prompts: harmful
      components: [resid_pre]
      strengths: [1.0]
      positions: [last, all]
      metric: refusal
      goal: lower
    project_out:
      fit: direction
      prompts: harmful
      components: [resid_pre, attn_out, mlp_out]
      everywhere: true
      positions: [all]
      metric: refusal
      goal: lower
figures:
  effect_by_layer: {arms: [add, project_out], metrics: [refusal, compliance], split: test}
  strength_by_layer: {arm: add, metric: refusal, split: test}
"""


def copy_project(folder: Path) -> Path:
    """conf/ and stages/ copied, data/ linked file by file; few.jsonl and study `small` added."""
    for name in ("conf", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conf" / "study" / "small.yaml").write_text(STUDY)
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


def composed_lists(folder: Path) -> Path:
    """A folder as it is before study `written_lists`, which `endings` reads, has run."""
    (folder / "data").symlink_to(ROOT / "data")
    with chdir(folder):
        lists = compose_study("written_lists", root=ROOT)
    save_study(lists, folder / "outputs" / "config" / "written_lists.yaml")
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
