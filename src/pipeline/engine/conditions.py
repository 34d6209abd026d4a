"""Conditions: what is done to a model, at which sites and positions, and how it is written down."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.engine.decoding import Decoding
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

RULES = ("all", "after_first", "last", "generated")
"""`all`: every token. `after_first`: all but the sequence's first, where activations of many models
are unlike all others. `last`: the prompt's last token. `generated`: the tokens after the prompt.
"""


@dataclass(frozen=True, eq=False)
class Places:
    """Absolute positions in each prompt of a run, for a rule that names others in each.

    Those past a prompt's end are in its completion.
    """

    rule: str
    of: Sequence[tuple[int, ...]] = field(repr=False)

    @functools.cached_property
    def table(self) -> Int[Tensor, "prompts places"]:
        """Positions of each prompt, filled up with -2, which no token has."""
        return pad_sequence(
            [torch.tensor(own, dtype=torch.long) for own in self.of], True, padding_value=-2
        )

    @functools.cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def table_on(self, device: torch.device) -> Int[Tensor, "prompts places"]:
        """The table on a device, copied there once."""
        if device not in self._tables:
            self._tables[device] = self.table.to(device)
        return self._tables[device]


Positions = str | tuple[int, ...] | Places
"""One of `RULES`; positions outright, from the start or from the prompt's end if negative; or what
was found for each prompt.
"""


@runtime_checkable
class Fitted(Protocol):
    """What belongs to one site of one model and is too large for a copy in each row."""

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raises a ValueError if it is used elsewhere."""
        ...

    def to(self, device: torch.device) -> "Fitted":
        """The same on another device; itself or the same tensors if it is there."""
        ...


@dataclass(frozen=True, eq=False)
class PerPrompt:
    """A field of an intervention that differs by prompt: patched states, noise.

    `of` has a row for each prompt of the run, in their order; where only some of the prompts run,
    a row for each of all. It stays on its own device, and only the rows of a batch leave it.
    """

    of: Float[Tensor, "prompts *field"] = field(repr=False)

    @property
    def shape(self) -> torch.Size:
        """Of one prompt's field."""
        return self.of.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of axes of one prompt's field."""
        return len(self.shape)


Field = Any
"""What a field of an intervention may be: a number, a tensor or, for either of them, `PerPrompt`.
In `edit` it is a tensor."""


@runtime_checkable
class Intervention(Protocol):
    """A frozen dataclass that changes an activation.

    Its fields are tensors, numbers, `PerPrompt` and what is `Fitted`. The engine edits rows
    together whose fields are alike in shape and share what is fitted: in `edit` a field [*field] is
    [rows, 1, *field] and a number [rows, 1, 1]. Vectors and numbers broadcast against
    [rows, pos, width]; a matrix is multiplied by `einsum("...d,...de->...e", hidden, matrix)`,
    which makes no copy of it for each position, as `@` would.

    One that does not fit every site has a method `check(model, site)` as well, which raises a
    ValueError before anything runs.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """The activation [rows, pos, d_model] as it is to be; `hidden` itself stays as it is."""
        ...


@dataclass(frozen=True)
class Edit:
    """An intervention at one site, at the positions that a rule names."""

    site: Site
    intervention: Intervention
    positions: Positions = "all"

    def __post_init__(self) -> None:
        check_rule(self.positions)
        if self.site.component == "pattern":
            raise ValueError(f"{self.site} can be read but not edited")


@dataclass(frozen=True)
class Condition:
    """One grid point. Its fields say in a table what its edits do in the model.

    `layer` is the layer that the direction was read at (None for a baseline), `source` where the
    direction came from, `draw` which draw of it. `decoding` is that of its completions; None: the
    run's. The id is a hash of the fields without edits and decoding.
    """

    arm: str = ""
    intervention: str = "none"
    source: str = "none"
    draw: int = 0
    layer: int | None = None
    strength: float = 0.0
    positions: str = "none"
    edits: tuple[Edit, ...] = field(default=(), compare=False, repr=False)
    decoding: Decoding | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The fields as columns of a table, the id first."""
        fields = {k: v for k, v in self.__dict__.items() if k not in ("edits", "decoding")}
        text = json.dumps(fields, sort_keys=True)
        return {"condition": hashlib.sha256(text.encode()).hexdigest()[:12], **fields}

    @property
    def id(self) -> str:
        """Stable over runs and machines."""
        return self.columns["condition"]

    def __str__(self) -> str:
        if self.intervention == "none":
            return f"{self.arm}: baseline"
        control = "" if self.source == "fitted" else f" ({self.source} {self.draw})"
        return (
            f"{self.arm}: {self.intervention} layer {self.layer} x {self.strength:g} "
            f"at {self.positions}{control}"
        )


def check_rule(rule: Any, valid: Sequence[str] = RULES) -> None:
    """Fail if a position rule is neither one of the valid names nor says positions outright.

    Raises:
        ValueError: names it and the valid ones.
    """
    listed = isinstance(rule, list | tuple) and rule and all(type(place) is int for place in rule)
    if not listed and not isinstance(rule, Places) and rule not in valid:
        raise ValueError(
            f"position rule {rule!r} is unknown; valid: {', '.join(valid)}, or a list of positions"
        )


def position_mask(
    rule: Positions,
    absolute: Int[Tensor, "rows pos"],
    prompt_lengths: Int[Tensor, " rows"],
    prompts: Int[Tensor, " rows"],
) -> Bool[Tensor, "rows pos"]:
    """Which tokens a rule names.

    Args:
        rule: one of `RULES`, or positions, or what they are in each prompt.
        absolute: each token's position in its sequence, -1 for pads.
        prompt_lengths: tokens in each row's prompt.
        prompts: each row's prompt, by its number in the run.
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
    if isinstance(rule, Places):
        named = rule.table_on(absolute.device)[prompts]
        return (absolute[:, :, None] == named[:, None]).any(-1)
    chosen = torch.zeros_like(absolute, dtype=torch.bool)
    for position in rule:
        assert isinstance(position, int)
        chosen |= absolute == (position if position >= 0 else ends + position)
    return chosen & (absolute >= 0)
