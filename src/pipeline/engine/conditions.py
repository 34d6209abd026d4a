"""Conditions: interventions on a model at sites and token positions."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.data.column_names import NOT_AXES
from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL, CURVE
from pipeline.engine.decoding import Decoding
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

POSITION_RULES = ("all", "after_first", "last", "generated")
"""`all`: every token. `after_first`: all but the first token of the sequence, whose activations are
outliers in many models. `last`: the last prompt token. `generated`: the tokens after the prompt.
"""


@dataclass(frozen=True, eq=False)
class PromptPositions:
    """Absolute token positions that differ by prompt.

    Positions past the end of a prompt are in its completion.

    Attributes:
        rule: name of the rule that selected the positions.
        of: positions in each prompt of the run.
    """

    rule: str
    of: Sequence[tuple[int, ...]] = field(repr=False)

    @functools.cached_property
    def table(self) -> Int[Tensor, "prompts positions"]:
        """Positions of each prompt, padded with -2, which matches no token."""
        return pad_sequence(
            [torch.tensor(positions, dtype=torch.long) for positions in self.of],
            True,
            padding_value=-2,
        )

    @functools.cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def table_on(self, device: torch.device) -> Int[Tensor, "prompts positions"]:
        """Return the table on a device, copied there once."""
        if device not in self._tables:
            self._tables[device] = self.table.to(device)
        return self._tables[device]


Positions = str | tuple[int, ...] | list[int] | PromptPositions
"""One of `POSITION_RULES`; positions, counted from the prompt's end if negative; or
positions per prompt.
"""


@runtime_checkable
class Fitted(Protocol):
    """A fitted object for one site of one model, shared by rows because it is large."""

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raise a ValueError if it was fitted for another model or site."""
        ...

    def to(self, device: torch.device) -> "Fitted":
        """Move to a device, without a copy if it is already there."""
        ...


@dataclass(frozen=True, eq=False)
class PerPrompt:
    """A field of an intervention that differs by prompt, such as patched activations or noise.

    `of` has one row for every prompt of the run, in order, even if only some of the prompts are
    run. It stays on its device; only the rows of a batch are copied.
    """

    of: Float[Tensor, "prompts *field"] = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.of, Tensor):
            raise ValueError(f"PerPrompt of a {type(self.of).__name__}; valid: a tensor")

    @property
    def shape(self) -> torch.Size:
        """Shape of one prompt's field."""
        return self.of.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of axes of one prompt's field."""
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class PerToken(PerPrompt):
    """A field that differs by prompt and token, such as another run's activations.

    `of` has a value for every token of every prompt of the run, by absolute position; prompts
    shorter than the longest are padded at the end. Tokens after the prompt have no value and
    cannot be edited.
    """

    of: Float[Tensor, "prompts tokens *field"] = field(repr=False)

    @property
    def shape(self) -> torch.Size:
        """Shape of one token's field."""
        return self.of.shape[2:]


Field = Any
"""A field of an intervention: a number, a tensor, or `PerPrompt` or `PerToken` of either. In `edit`
it is a tensor."""


@runtime_checkable
class Intervention(Protocol):
    """A frozen dataclass that changes an activation.

    Its fields are tensors, numbers, `PerPrompt`, `PerToken` or `Fitted`. The engine batches
    interventions that have the same field shapes and share their `Fitted` objects: in `edit`, a
    field [*field] is [rows, 1, *field] and a number is [rows, 1, 1]; if they differ by token, they
    are [rows, pos, *field] and [rows, pos, 1]. Vectors and numbers broadcast against
    [rows, pos, width]. Multiply by a matrix with `einsum("...d,...de->...e", hidden, matrix)`:
    `@` would copy it for each position.

    An intervention that does not fit every site also has a method `check(model, site)`, which
    raises a ValueError before the model runs.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Return the edited activation [rows, pos, width]; do not modify `hidden` in place."""
        ...


@dataclass(frozen=True)
class Edit:
    """An intervention at one site, at the token positions that a rule selects.

    A site may be given as text, such as `blocks.2.resid_pre`.
    """

    site: Site
    intervention: Intervention
    positions: Positions = "all"

    def __post_init__(self) -> None:
        if isinstance(self.site, str):
            object.__setattr__(self, "site", Site.parse(self.site))
        if not isinstance(self.site, Site):
            raise ValueError(f"site {self.site!r}; valid: Site(2, 'resid_pre'), or its text")
        kind = self.intervention if isinstance(self.intervention, type) else type(self.intervention)
        if kind is self.intervention or not isinstance(self.intervention, Intervention):
            what = "is the class" if kind is self.intervention else "is a"
            raise ValueError(
                f"the intervention {what} {kind.__name__}; valid: such as Add(direction)"
            )
        check_rule(self.positions)
        if isinstance(self.positions, list):
            object.__setattr__(self, "positions", tuple(self.positions))
        if self.site.component == "pattern":
            raise ValueError(f"{self.site} can be read but not edited")


@dataclass(frozen=True)
class Condition:
    """Edits that are applied together, and their coordinates on the axes of a sweep.

    Attributes:
        axes: coordinates, text or finite numbers; the columns of tables: arm, layer, strength,
            positions, source_layer, ...
        edits: edits of activations; empty for the unedited model.
        decoding: decoding of completions; None: that of the sweep.
        role: `BASELINE`, `CANDIDATE`, `CURVE` or `CONTROL`.
    """

    axes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    edits: tuple[Edit, ...] = field(default=(), compare=False, repr=False)
    decoding: Decoding | None = None
    role: str = CANDIDATE

    @property
    def id(self) -> str:
        """Hash of the axes, stable across runs and machines."""
        text = json.dumps(dict(self.axes), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __post_init__(self) -> None:
        if not isinstance(self.axes, Mapping):
            raise ValueError(f"axes is {type(self.axes).__name__}; valid: a dict, and edits=(...)")
        # Numbers of numpy and torch, as ranges and tensors give them, are no JSON.
        axes = {n: v.item() if getattr(v, "ndim", 1) == 0 else v for n, v in self.axes.items()}
        object.__setattr__(self, "axes", axes)
        for name, value in axes.items():
            if name in NOT_AXES:
                raise ValueError(f"axis {name!r} would be taken for the tables' own column {name}")
            if not isinstance(value, str | int | float):
                raise ValueError(
                    f"axis {name!r} is a {type(value).__name__}; valid: text or a number"
                )
            # In tables, NaN is the missing value of conditions without the axis.
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"axis {name!r} is {value}; valid: text or a finite number")
        if self.role not in (BASELINE, CANDIDATE, CURVE, CONTROL):
            raise ValueError(
                f"role {self.role!r} is unknown; valid: {BASELINE}, {CANDIDATE}, {CURVE}, {CONTROL}"
            )
        if not isinstance(self.decoding, Decoding | None):
            raise ValueError(f"decoding is {self.decoding!r}; valid: Decoding(...)")
        if isinstance(self.edits, Edit):
            raise ValueError("edits is one Edit; valid: a tuple, such as edits=(edit,)")
        # A generator would be used up by the first look at it.
        object.__setattr__(self, "edits", tuple(self.edits))
        for edit in self.edits:
            if not isinstance(edit, Edit):
                raise ValueError(f"an edit is {type(edit).__name__}; valid: Edit(site, ...)")

    def __str__(self) -> str:
        named = ", ".join(f"{name} {value}" for name, value in self.axes.items())
        edited = ", ".join(str(edit.site) for edit in self.edits)
        return named or (f"edits at {edited}" if edited else "no edit")


def check_rule(rule: Any, valid: Sequence[str] = POSITION_RULES) -> None:
    """Check that a position rule is a valid name, a list of positions or `PromptPositions`.

    Raises:
        ValueError: names the rule and the valid ones.
    """
    listed = (
        isinstance(rule, list | tuple) and rule and all(type(position) is int for position in rule)
    )
    named = isinstance(rule, str) and rule in valid
    if not listed and not named and not isinstance(rule, PromptPositions):
        raise ValueError(
            f"position rule {rule!r} is unknown; valid: {', '.join(valid)}, or a list of positions"
        )


def position_mask(
    rule: Positions,
    absolute: Int[Tensor, "rows pos"],
    prompt_lengths: Int[Tensor, " rows"],
    prompts: Int[Tensor, " rows"],
) -> Bool[Tensor, "rows pos"]:
    """Return the mask of the tokens that a rule selects.

    Args:
        rule: one of `POSITION_RULES`, a tuple of positions, or positions per prompt.
        absolute: position of each token in its sequence, -1 for padding.
        prompt_lengths: number of tokens in each row's prompt.
        prompts: index in the run of each row's prompt.
    """
    ends = prompt_lengths[:, None]
    if rule == "all":
        return absolute >= 0
    if rule == "after_first":
        return absolute > 0
    if rule == "last":
        return absolute == ends - 1
    if rule == "generated":
        return absolute >= ends
    if isinstance(rule, PromptPositions):
        named = rule.table_on(absolute.device)[prompts]
        return (absolute[:, :, None] == named[:, None]).any(-1)
    chosen = torch.zeros_like(absolute, dtype=torch.bool)
    for position in rule:
        assert isinstance(position, int)
        chosen |= absolute == (position if position >= 0 else ends + position)
    return chosen & (absolute >= 0)
