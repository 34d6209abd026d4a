"""Probes of every layer as a fit: linear maps of states, with controls and provenance."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.methods.directions import Key
from pipeline.methods.provenance import Provenance
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore

SHUFFLED = "shuffled"
"""Source of a control probe: fitted in the same way to shuffled targets."""

PENALTIES = [0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]
"""Candidates by default; see `probe_fitting.LinearFit`."""

_FILE, _CHOSEN = "probes.safetensors", "chosen.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Probes:
    """Linear maps of the states at a component of every layer, with controls.

    Attributes:
        weights: by key, [outputs, d_model]; source `fitted`, or that of a control.
        biases: by key, [outputs].
        component: the component whose states are read, such as `resid_pre`.
        targets: the dataset's columns that are predicted.
        classes: of a classification, the class of each output.
        chosen: one row per key: `source`, `draw`, `layer`, `score` on rows that the probe was not
            fitted on, all of them train or val, and what was chosen by it.
        provenance: the model and data they were fitted on.
    """

    weights: Mapping[Key, Float[Tensor, "outputs d_model"]]
    biases: Mapping[Key, Float[Tensor, " outputs"]]
    component: str
    targets: tuple[str, ...]
    classes: tuple[str, ...]
    chosen: pd.DataFrame
    provenance: Provenance

    def read(self, key: Key, states: Float[Tensor, "rows d_model"]) -> Float64[Tensor, "rows out"]:
        """Apply a probe to states of its layer."""
        weight, bias = self.weights[key], self.biases[key]
        return states.double() @ weight.double().T + bias.double()

    def save(self, folder: Path) -> None:
        """Write the maps in float64, and the scores as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        # One metadata key: several would be written in random order and change the file's bytes.
        record = {
            "component": self.component,
            "targets": self.targets,
            "classes": self.classes,
            "provenance": self.provenance.record,
        }
        tensors = {
            f"{name}/{key}": value.double().contiguous()
            for name, maps in (("weight", self.weights), ("bias", self.biases))
            for key, value in maps.items()
        }
        metadata = {"probes": json.dumps(record, sort_keys=True)}
        save_file(tensors, folder / _FILE, metadata=metadata)
        self.chosen.to_json(folder / _CHOSEN, orient="records", indent=1, double_precision=15)

    @classmethod
    def load(cls, folder: Path) -> "Probes":
        """Read probes back; call `check` before using them at a site of a model."""
        maps: dict[str, dict[Key, Tensor]] = {"weight": {}, "bias": {}}
        with safe_open(folder / _FILE, framework="pt") as file:
            record = json.loads(file.metadata()["probes"])
            for name in file.keys():  # noqa: SIM118
                kind, _, key = name.partition("/")
                maps[kind][Key.parse(key)] = file.get_tensor(name)
        return cls(
            maps["weight"],
            maps["bias"],
            record["component"],
            tuple(record["targets"]),
            tuple(record["classes"]),
            pd.read_json(folder / _CHOSEN),
            Provenance.parse(record["provenance"]),
        )

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the probes are from another model or template, or of another component.

        Raises:
            ValueError: names the actual and the expected value.
        """
        template = chat.template_digest(model.tokenizer)
        self.provenance.require("probes", model=model.weights, template=template)
        if site.component != self.component:
            raise ValueError(
                f"a probe of {self.component} does not read {site.component}; "
                f"valid: {self.component}"
            )

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        component: str,
        targets: Sequence[str],
        penalties: Sequence[float] = PENALTIES,
        folds: int = 2,
        draws: int = 0,
    ) -> "Probes":
        """Check the options of `linear_probe` before it is fitted.

        Raises:
            ValueError: as `linear_probe`.
        """
        train = prompts[prompts["split"] == "train"]
        if kind_of(prompts, targets) == "classes":
            _warn_of_numbers(prompts[targets[0]], targets[0])
        check_fit(train, penalties, folds, draws)
        return cls({}, {}, component, tuple(targets), (), pd.DataFrame(), Provenance(model=""))


def kind_of(prompts: pd.DataFrame, targets: Sequence[str]) -> str:
    """Return `values` for columns of numbers, `classes` for one of text or truth values.

    Raises:
        ValueError: an unknown column, a missing value, no column, several columns that are not all
            of numbers, or a column with a single value on the train split.
    """
    for column in targets:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")
        if prompts[column].isna().any():
            sample = prompts.loc[prompts[column].isna(), "sample"].iloc[0]
            raise ValueError(
                f"targets: sample {sample} has no {column}; valid: a value in each row"
            )
    kinds = [prompts[column].dtype.kind in "iuf" for column in targets]
    train = prompts[prompts["split"] == "train"]
    for column in targets:
        if train[column].nunique() == 1:
            raise ValueError(f"targets: all train rows have the same {column}; valid: two values")
    if targets and all(kinds):
        return "values"
    if len(targets) != 1:
        raise ValueError(
            f"targets: {', '.join(targets) or 'none'}; valid: one column of classes, or columns of "
            "numbers"
        )
    return "classes"


def _warn_of_numbers(classes: pd.Series, column: str) -> None:
    """Warn of classes that are numbers as text: all cells of a CSV file are text."""
    numbers = pd.to_numeric(classes.where(classes.map(type).eq(str)), errors="coerce")
    if numbers.notna().all():
        log.warning(
            "targets: %s is text, such as %r, as in every CSV file: %d classes are told apart; "
            "numbers of JSON and Parquet are predicted as values",
            *(column, classes.iloc[0], classes.nunique()),
        )


def check_fit(train: pd.DataFrame, penalties: Sequence[float], folds: int, draws: int) -> None:
    """Fail if there is nothing to choose from, or the train split cannot be divided.

    Raises:
        ValueError: names the option.
    """
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties: {list(penalties)}; valid: numbers above 0")
    topics = train["topic"].nunique()
    if topics < 2:
        named = "the same topic" if (train["topic"] != "").any() else "no topic"
        raise ValueError(
            f"folds: {folds} of the train split, whose {len(train)} rows have {named}; valid: a "
            "column topic of the dataset with two values or more, as no topic is in two folds"
        )
    if not 2 <= folds <= topics:
        raise ValueError(f"folds: {folds}; valid: 2 to {topics}, the topics of the train split")
    if draws < 0:
        raise ValueError(f"draws: {draws} is less than 0")


def stored_rows(store: ActivationStore, prompts: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the numbers of the rows that a store has of some prompts, and their prompts.

    Raises:
        ValueError: none, or several positions of a prompt.
    """
    rows = np.flatnonzero(store.rows["sample"].isin(prompts["sample"]))
    samples = store.rows["sample"].iloc[rows]
    if not len(rows):
        splits = ", ".join(sorted(prompts["split"].unique()))
        raise ValueError(f"no activations of the split {splits}; collect.splits must name it")
    if samples.duplicated().any():
        raise ValueError("the store has several positions of a prompt; valid: one")
    return rows, prompts.set_index("sample", drop=False).loc[samples].reset_index(drop=True)


def probe_provenance(store: ActivationStore, component: str, how: str) -> Provenance:
    """Return the provenance of probes that were fitted on a store."""
    sites = tuple(site for site in store.sites if Site.parse(site).component == component)
    mark = store.fingerprint
    return Provenance(mark.model, mark.template, mark.dataset, sites, f"probe: {how}")


def fields_of(key: Key) -> dict[str, Any]:
    """Return a key as columns of a table."""
    return {"source": key.source, "draw": key.draw, "layer": key.layer}


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key that a table's row names."""
    return Key(row["source"], int(row["draw"]), int(row["layer"]))
