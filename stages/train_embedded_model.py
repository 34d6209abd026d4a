"""Train data/embedded_model, and write the inputs of the studies on its artificial language."""

import argparse
import shutil
import time
from pathlib import Path

import torch

from pipeline.embedded.card import record_training
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.training import Recipe, save, train
from stages.measure_embedded_model import DATA, MODEL, write_measured

STUDY_SEED = 1


def main() -> None:
    """Train and measure the model, and move it into place once it is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe().seed, help="of corpus and weights")
    parser.add_argument("--folder", type=Path, default=MODEL, help="of the model")
    arguments = parser.parse_args()
    recipe, folder = Recipe(seed=arguments.seed), arguments.folder
    scratch = folder.with_name(folder.name + ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.monotonic()
    model, tokenizer, figures = train(recipe)
    figures["minutes"] = (time.monotonic() - started) / 60
    figures["threads"] = torch.get_num_threads()
    save(model, tokenizer, scratch)
    record_training(scratch, recipe, figures)
    write_study_data(DATA, STUDY_SEED)
    write_measured(scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    print((folder / "CARD.md").read_text())


if __name__ == "__main__":
    main()
