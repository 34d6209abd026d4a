"""The edits of a batch whose rows belong to different conditions: one visit per site."""

from collections import defaultdict
from collections.abc import Container, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Condition, Positions, fitted, position_mask, stack
from pipeline.model.hooks import Visit
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

_Kind = tuple[int, type, Positions, tuple[int, ...]]
"""Place in a condition's order, intervention, rule, and what is fitted by its identity."""


class _Group(NamedTuple):
    rule: Positions
    rows: Tensor
    intervention: Any
    edits: frozenset[tuple[int, int]]


class EditTable:
    """What each row's condition does at each site, regrouped whenever the rows change.

    Rows that undergo the same kind of intervention by the same position rule are edited together,
    with the interventions' fields stacked, a row each, and what is fitted shared. Edits of one
    condition at one site are applied in their order.
    """

    def __init__(self, model: LanguageModel, conditions: Sequence[Condition]) -> None:
        self._model = model
        self._conditions = conditions
        self._groups: dict[Site, list[_Group]] = {}
        self._active: dict[Site, list[tuple[_Group, Tensor | None]]] = {}
        self._pending = {
            (c, e) for c, condition in enumerate(conditions) for e in range(len(condition.edits))
        }
        for condition in conditions:
            for edit in condition.edits:
                model.check(edit.site)
                for part in fitted(edit.intervention).values():
                    part.check(model, edit.site)

    def set_rows(
        self,
        owners: Sequence[int],
        prompt_lengths: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> None:
        """Say which condition and prompt each row belongs to, and how long the prompt is."""
        self._lengths, self._prompts = prompt_lengths, prompts
        gathered: dict[Site, dict[_Kind, list[tuple[int, int, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for row, owner in enumerate(owners):
            order: dict[Site, int] = defaultdict(int)
            for number, edit in enumerate(self._conditions[owner].edits):
                shared = tuple(id(part) for part in fitted(edit.intervention).values())
                key = (order[edit.site], type(edit.intervention), edit.positions, shared)
                gathered[edit.site][key].append((row, owner, number))
                order[edit.site] += 1
        rows: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._groups = {
            site: [
                self._group(site, key[2], members, rows)
                for key, members in sorted(groups.items(), key=lambda item: item[0][0])
            ]
            for site, groups in gathered.items()
        }

    def _group(
        self,
        site: Site,
        rule: Positions,
        members: list[tuple[int, int, int]],
        rows: dict[tuple[tuple[int, ...], torch.device], Tensor],
    ) -> "_Group":
        device = self._model.device_of(site)
        used = [self._conditions[owner].edits[number].intervention for _, owner, number in members]
        numbers = tuple(row for row, _, _ in members)
        return _Group(
            rule=rule,
            rows=rows.setdefault((numbers, device), torch.tensor(numbers, device=device)),
            # In float32 whatever the model's type: a projection in bfloat16 leaves a remainder.
            intervention=stack(used, device, torch.float32),
            edits=frozenset((owner, number) for _, owner, number in members),
        )

    def set_positions(self, absolute: Int[Tensor, "rows pos"]) -> None:
        """Say where in their sequences the tokens of the coming forward pass stand; pads are -1."""
        masks: dict[tuple[Positions, int], tuple[Tensor | None, bool]] = {}
        self._active = defaultdict(list)
        for site, groups in self._groups.items():
            for group in groups:
                # Sites share the tensor of rows, hence its identity as a key.
                key = (group.rule, id(group.rows))
                if key not in masks:
                    rows = group.rows.to(absolute.device)
                    named = position_mask(
                        group.rule, absolute[rows], self._lengths[rows], self._prompts[rows]
                    )
                    # Asked once for all sites: each answer waits for the device.
                    mask = None if bool(named.all()) else named.to(group.rows.device)[..., None]
                    masks[key] = (mask, bool(named.any()))
                mask, touched = masks[key]
                if touched:
                    self._active[site].append((group, mask))

    @property
    def visits(self) -> dict[Site, Visit]:
        """A visit for every site that any condition edits."""
        sites = {edit.site for condition in self._conditions for edit in condition.edits}
        return {site: partial(self.edit, site) for site in sites}

    def check_fired(self, ended_at_once: Container[int] = ()) -> None:
        """Fail if an edit by a rule that names tokens of every row never touched one.

        Conditions all of whose rows ended with their first token have no generated token, and none
        after the first if that was the prompt. Listed positions are in some rows and not in others:
        `limits.check_listed` looks at them.

        Raises:
            ValueError: names the condition, the site and the rule.
        """
        for c, e in sorted(self._pending):
            edit = self._conditions[c].edits[e]
            if not isinstance(edit.positions, str):
                continue
            if edit.positions in ("after_first", "generated") and c in ended_at_once:
                continue
            raise ValueError(
                f"{self._conditions[c]}: the edit at {edit.site} never fired: no token stood at "
                f"positions {edit.positions!r}"
            )

    def edit(self, site: Site, hidden: Float[Tensor, "rows pos width"]) -> Tensor | None:
        """The activation at a site as the rows' conditions want it; None if none changes it."""
        changed = hidden
        for group, mask in self._active.get(site, ()):
            self._pending -= group.edits
            every_row = len(group.rows) == len(hidden)
            before = changed if every_row else changed[group.rows]
            after = group.intervention.edit(before.float()).to(hidden.dtype)
            if mask is not None:
                after = torch.where(mask, after, before)
            changed = after if every_row else changed.index_copy(0, group.rows, after)
        return None if changed is hidden else changed
