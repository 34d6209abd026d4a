"""Masks of the store rows to train, measure and read autoencoders on."""

import numpy as np
import pandas as pd
from jaxtyping import Bool

from pipeline.model.loading import LanguageModel
from pipeline.store.store import ActivationStore


def ordinary_rows(model: LanguageModel, store: ActivationStore) -> Bool[np.ndarray, " rows"]:
    """Mask the rows of tokens that are not special tokens of the tokenizer."""
    special: np.ndarray = store.rows["token"].isin(model.tokenizer.all_special_ids).to_numpy()
    return ~special


def rows_of_split(
    store: ActivationStore, prompts: pd.DataFrame, split: str
) -> Bool[np.ndarray, " rows"]:
    """Mask the rows of a split's samples."""
    samples = prompts.loc[prompts["split"] == split, "sample"]
    rows: np.ndarray = store.rows["sample"].isin(samples).to_numpy()
    return rows


def completion_rows(store: ActivationStore, prompts: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
    """Mask the rows of completion tokens, those after each sample's prompt."""
    lengths = store.rows["sample"].map(prompts.set_index("sample")["tokens"].map(len))
    rows: np.ndarray = (store.rows["position"] >= lengths).to_numpy()
    return rows
