"""data/embedded_model -> its model card, with measured capabilities.

With --compare, add the results of a model trained with another seed, by
`python -m stages.train_embedded_model --seed 1 --folder FOLDER`.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from pipeline.embedded.card import record_measured, record_other_seed, write_card
from pipeline.embedded.evaluation import measure, perplexity
from pipeline.model.loading import LanguageModel
from stages import ROOT

DATA = ROOT / "data"
MODEL = DATA / "embedded_model"


def measure_afresh(folder: Path) -> pd.DataFrame:
    """Run every check and measure perplexity on held-out plain text, as the card's table."""
    model = LanguageModel.load(str(folder), dtype="float32", device="cpu")
    lines = (DATA / "plain_text.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    tables = [measure(model.hf, model.tokenizer), perplexity(model.hf, model.tokenizer, texts)]
    return pd.concat(tables, ignore_index=True)


def write_measured(folder: Path) -> None:
    """Measure a folder's model and write its card."""
    record_measured(folder, measure_afresh(folder))
    (folder / "CARD.md").write_text(write_card(folder))


def main() -> None:
    """Measure the model in --folder, or only add the other seed's column with --compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=MODEL, help="of the model")
    parser.add_argument("--compare", type=Path, help="folder of a measured model of another seed")
    arguments = parser.parse_args()
    if arguments.compare:
        record_other_seed(arguments.folder, arguments.compare)
        (arguments.folder / "CARD.md").write_text(write_card(arguments.folder))
    else:
        write_measured(arguments.folder)
    print((arguments.folder / "CARD.md").read_text())


if __name__ == "__main__":
    main()
