"""What a node's options may be and what it needs, declared in annotations, checked before it runs.

    top: OneOrMore = 10                                      # a number in a range
    method: Annotated[str, OneOf("pca", "tsne")] = "pca"     # one of fixed values
    control: ArmName                                         # a name in the study
    by: ColumnName = "label"                                 # a column of the dataset
    topics: list[Annotated[str, ValueOf("topic")]]           # values in a column of the dataset
    select: Selection = None                                 # prompts, as an arm selects them

    store: Annotated[ActivationStore, OfSplits("train")]     # splits that must be collected
    texts: Annotated[pd.DataFrame, NeedsText()]              # the study must have a `text`

A note stands at the part that it describes: of a list's items, within the brackets. None is always
left unchecked.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

Note = TypeVar("Note")


class Check:
    """A note that checks a value by itself."""

    def check(self, value: Any) -> None:
        """Raise a ValueError that names the value and the valid ones."""
        raise NotImplementedError


class OneOf(Check):
    """One of fixed values."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def check(self, value: Any) -> None:
        """Check that the value is one of them."""
        if value not in self.values:
            raise ValueError(f"{value!r} is unknown; valid: {', '.join(map(str, self.values))}")


@dataclass(frozen=True)
class Range(Check):
    """A number of at least `least`, above `above`, at most `most` and below `below`."""

    least: int | float | None = None
    above: int | float | None = None
    most: int | float | None = None
    below: int | float | None = None

    def check(self, value: Any) -> None:
        """Check that the number is in the range."""
        outside = (
            (self.least is not None and value < self.least)
            or (self.above is not None and value <= self.above)
            or (self.most is not None and value > self.most)
            or (self.below is not None and value >= self.below)
        )
        if outside:
            raise ValueError(f"{value:g} is out of range; valid: {self}")

    def __str__(self) -> str:
        high = None if self.most is None else f"{self.most:g}"
        high = high if self.below is None else f"below {self.below:g}"
        if self.least is None and self.above is None:
            return f"up to {high}" if self.below is None else str(high)
        low = f"above {self.above:g}" if self.least is None else f"{self.least:g}"
        if high is not None:
            return f"{low} to {high}"
        return low if self.least is None else f"{low} or more"


@dataclass(frozen=True)
class Named:
    """A name in the study, of one kind.

    `arm`, `chosen arm` (an arm with a goal), `metric`, `reading`, `fit` (of another study as
    `STUDY/NAME`), or `axis`: of an arm's conditions, or a column of the dataset.
    """

    kind: str


@dataclass(frozen=True)
class ValueOnAxis:
    """A value on an axis of the conditions of the figure's arms."""

    axis: str


class OfShares:
    """The name of a metric with scores of 0 and 1."""


class OfOneScale:
    """Names of metrics that are drawn on one axis: a single one, or all in per cent."""


class InModel:
    """The number of a layer of the model."""


@dataclass(frozen=True)
class ValueOf:
    """A value in a column of the dataset, in the rows of the node's `split` if it has that."""

    column: str


@dataclass(frozen=True)
class InDataset:
    """The name of a column of the dataset, with at most so many values in the node's rows."""

    most: int | None = None


class Selected:
    """Prompts, as of `data.prompts.select_prompts`; of a node that reads the store, stored ones."""


class NeedsText:
    """An input that lacks what the node reads of it without the study's `text`."""


@dataclass(frozen=True)
class NeedsInEach:
    """A value that every prompt must have in a column, and a test of it; any text but an empty one.

    Attributes:
        column: of the dataset.
        name: what a prompt without it lacks.
        holds: whether a value is one.
    """

    column: str
    name: str
    holds: Callable[[Any], bool] = bool


class OfSplits:
    """Splits that the store must have, besides that of the node's option `split`."""

    def __init__(self, *splits: str) -> None:
        self.splits = splits


LEGEND = 18
"""Names in a legend that can be told apart: see `views.panels.styles_of`."""
OneOrMore = Annotated[int, Range(1)]
ZeroOrMore = Annotated[int, Range(0)]
ArmName = Annotated[str, Named("arm")]
ChosenArmName = Annotated[str, Named("chosen arm")]
AxisName = Annotated[str, Named("axis")]
FitName = Annotated[str, Named("fit")]
MetricsOfOneScale = Annotated[list[str], OfOneScale()]
ReadingName = Annotated[str, Named("reading")]
ShareName = Annotated[str, Named("metric"), OfShares()]
LayerNumber = Annotated[int, InModel()]
ColumnName = Annotated[str, InDataset()]
LegendColumn = Annotated[str, InDataset(most=LEGEND)]
Label = Annotated[str, ValueOf("label")]
Sample = Annotated[int, ValueOf("sample")]
Selection = Annotated[Any, Selected()]


def declared(
    function: Callable[..., Any], options: Mapping[str, Any], kind: type[Note]
) -> Iterator[tuple[str, Note, Any]]:
    """Yield key, note and value of every part of the options that has a note of this kind."""
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name in options:
            value = options[parameter.name]
            yield from _noted(parameter.name, parameter.annotation, value, kind)


def needed(function: Callable[..., Any], kind: type[Note]) -> Iterator[Note]:
    """Yield the notes of this kind at a function's inputs."""
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        notes = getattr(parameter.annotation, "__metadata__", ())
        if parameter.kind is not parameter.KEYWORD_ONLY:
            yield from (note for note in notes if isinstance(note, kind))


def plain(annotation: Any) -> Any:
    """Return an annotation without notes, as OmegaConf takes it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return plain(parts[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(plain, parts))]  # noqa: UP007 - of parts known at run time
    if origin in (list, dict):
        return origin[tuple(map(plain, parts))]
    return annotation


def _is_of(value: Any, annotation: Any) -> bool:
    """Whether a value is of the type that a member of a union names."""
    kind = get_origin(annotation) or annotation
    if kind is float:
        return isinstance(value, int | float)
    return not isinstance(kind, type) or isinstance(value, kind)


def _noted(
    key: str, annotation: Any, value: Any, kind: type[Note]
) -> Iterator[tuple[str, Note, Any]]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if value is None:
        return
    if origin is Annotated:
        yield from ((key, note, value) for note in parts[1:] if isinstance(note, kind))
        yield from _noted(key, parts[0], value, kind)
    elif origin in (Union, UnionType):
        for part in parts:
            if _is_of(value, plain(part)):
                yield from _noted(key, part, value, kind)
    elif origin is list and isinstance(value, list):
        for item in value:
            yield from _noted(key, parts[0], item, kind)
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            yield from _noted(key, parts[0], name, kind)
            yield from _noted(f"{key}.{name}", parts[1], item, kind)
