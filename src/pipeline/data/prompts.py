"""A study's prompts and texts as its model is given them."""

import pandas as pd

from pipeline.config.sections import Study
from pipeline.config.study import at_key, target
from pipeline.data import datasets
from pipeline.model import chat
from pipeline.model.loading import load_tokenizer


def build_dataset(study: Study) -> pd.DataFrame:
    """The study's prompts as its model is given them."""
    frame = target(study.dataset)()
    if frame.empty:
        raise ValueError(f"dataset {study.dataset} is empty")
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    if not frame["raw"].all():
        chat.announce(tokenizer, study.model.system)
    return datasets.tokenise(
        frame, tokenizer, system=study.model.system, variables=study.model.template
    )


def build_texts(study: Study) -> pd.DataFrame:
    """The unrelated texts that side effects are measured on, tokenised; no rows without any."""
    if study.text is None:
        return pd.DataFrame({"sample": [], "tokens": []})
    with at_key("text"):
        texts = datasets.load_texts(study.text)
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    return texts.assign(tokens=[tokenizer.encode(text) for text in texts["text"]])
