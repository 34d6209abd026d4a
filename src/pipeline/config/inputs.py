"""The inputs of a study's nodes, loaded lazily."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.contracts import returns
from pipeline.config.sections import Study

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.model.loading import LanguageModel
    from pipeline.store.store import ActivationStore


class Inputs:
    """Inputs from a study's output folder, as attributes named as in `contracts.READS`."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self.seed, self.cluster = study.score.seed, study.score.cluster

    def replaced(self, **others: Any) -> "Inputs":
        """Return a copy with some attributes replaced."""
        return _Replaced(self, others)

    @cached_property
    def model(self) -> "LanguageModel":
        """The model, loaded on first access."""
        from pipeline.model.loading import load_model

        return load_model(self._study.model)

    @cached_property
    def prompts(self) -> "pd.DataFrame":
        """See `contracts.READS`, as for the others."""
        return self._table("dataset")

    @cached_property
    def texts(self) -> "pd.DataFrame":
        """See `contracts.READS`."""
        return self._table("texts")

    @cached_property
    def store(self) -> "ActivationStore":
        """See `contracts.READS`; it must be of the study's prompts."""
        from pipeline.data.positions import locate
        from pipeline.data.prompts import select_prompts
        from pipeline.model.tokenizer import load_tokenizer
        from pipeline.store.collecting import check_store
        from pipeline.store.store import ActivationStore

        store = ActivationStore(self._folder / "activations")
        collect, section = self._study.collect, self._study.model
        assert collect is not None
        # A fit without the model need not load it.
        model = vars(self).get("model")
        tokens, _ = locate(
            select_prompts(self.prompts, collect.prompts, collect.splits),
            model.tokenizer if model else load_tokenizer(section.path, section.revision),
            collect.positions,
            variables=section.template,
        )
        check_store(
            store,
            tokens,
            model=model.weights if model else None,
            revision=section.revision or "",
            rule=str(collect.positions),
        )
        return store

    @cached_property
    def conditions(self) -> "pd.DataFrame":
        """Role, axes and `at_setting` of every condition."""
        return self._table("conditions")

    @cached_property
    def completions(self) -> "pd.DataFrame":
        """See `contracts.READS`."""
        return self._joined(self._table("completions"))

    @cached_property
    def scores(self) -> "pd.DataFrame":
        """See `contracts.READS`."""
        return self._joined(self._table("scores"))

    @cached_property
    def summary(self) -> "pd.DataFrame":
        """See `contracts.READS`."""
        return self._table("summary")

    @cached_property
    def fits(self) -> "Fits":
        """See `contracts.READS`."""
        return Fits(self._study, self._folder)

    @cached_property
    def readings(self) -> "Readings":
        """See `contracts.READS`."""
        return Readings(tuple(self._study.readings), self._folder / "readings")

    def _table(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        return pd.read_parquet(self._folder / f"{name}.parquet")

    def _joined(self, table: "pd.DataFrame") -> "pd.DataFrame":
        from pipeline.measures.scores import with_conditions, with_prompts

        return with_conditions(with_prompts(table, self.prompts), self.conditions)


class _Replaced(Inputs):
    """Inputs with some attributes replaced."""

    def __init__(self, inputs: Inputs, others: Mapping[str, Any]) -> None:
        self._inputs, self._others = inputs, others

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "replaced":
            return object.__getattribute__(self, name)
        return self._others[name] if name in self._others else getattr(self._inputs, name)


class Fits(Mapping[str, Any]):
    """The fits of a study by name, and of other studies as `STUDY/NAME`; each is read once."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            other, _, fit_name = name.rpartition("/")
            self._read[name] = (
                other_fits(self._folder, other)[fit_name] if other else self._load(name)
            )
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._study.fits)

    def __len__(self) -> int:
        return len(self._study.fits)

    def _load(self, name: str) -> Any:
        if name not in self._study.fits:
            raise ValueError(f"no fit {name!r}; valid: {', '.join(self._study.fits) or 'none'}")
        return returns(self._study.fits[name]).load(self._folder / "fits" / name)


def other_fits(folder: Path, study: str) -> Fits:
    """Open the fits of another study, whose output folder is next to this study's.

    Raises:
        ValueError: no such output folder.
    """
    from pipeline.config.study import config_file, load_study

    config = config_file(folder.parent / study)
    if not config.is_file():
        raise ValueError(f"study {study!r} has no outputs in {folder.parent}")
    return Fits(load_study(config), folder.parent / study)


class Readings(Mapping[str, Any]):
    """The readings of a study by name, each loaded on access."""

    def __init__(self, names: tuple[str, ...], folder: Path) -> None:
        self._names, self._folder = names, folder

    def __getitem__(self, name: str) -> "pd.DataFrame":
        import pandas as pd

        if name not in self._names:
            raise ValueError(f"no reading {name!r}; valid: {', '.join(self._names) or 'none'}")
        return pd.read_parquet(self._folder / f"{name}.parquet")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
