"""Nothing -> data/embedded_model, and the inputs of the studies that go with its language."""

import json
import shutil
import time
from pathlib import Path

import torch

from pipeline.embedded.card import write_card
from pipeline.embedded.evaluation import measure, perplexity
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.training import Recipe, save, train
from pipeline.model.loading import LanguageModel

DATA = Path("data")
STUDY_SEED = 1
MEASURED = 300
MEASURE_SEED = 2


def main() -> None:
    """Train, measure, and put the model in place when all is written."""
    recipe = Recipe()
    folder, scratch = DATA / "embedded_model", DATA / "embedded_model.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.monotonic()
    model, tokenizer, figures = train(recipe)
    figures["minutes"] = (time.monotonic() - started) / 60
    figures["threads"] = torch.get_num_threads()
    save(model, tokenizer, scratch)
    write_study_data(DATA, STUDY_SEED)
    loaded = LanguageModel.load(str(scratch), dtype="float32", device="cpu")
    measured = measure(loaded.hf, loaded.tokenizer, n=MEASURED, seed=MEASURE_SEED)
    lines = (DATA / "plain_text.jsonl").read_text().splitlines()
    surprise = perplexity(loaded.hf, loaded.tokenizer, [json.loads(line)["text"] for line in lines])
    (scratch / "CARD.md").write_text(write_card(recipe, figures, measured, surprise))
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    print((folder / "CARD.md").read_text())


if __name__ == "__main__":
    main()
