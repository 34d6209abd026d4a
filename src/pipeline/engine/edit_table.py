"""The edits of a batch whose rows belong to different conditions: one visit per site."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Condition, Positions, position_mask
from pipeline.engine.stacking import Layout, Stack, layout
from pipeline.model.hooks import Visit
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

_Key = tuple[int, Positions, Layout]
"""Place in a condition's order, rule, and what interventions have in common."""

_CERTAIN = ("all", "last")
"""Rules that name a token of every prompt: an edit by them that touches none is a defect."""


class _Kind(NamedTuple):
    """Edits of several conditions at one site that are made together.

    `stack` has an intervention for each of `edits` (condition, place among its edits), and `place`
    [conditions] says which is a condition's own; -1: none.
    """

    rule: Positions
    stack: Stack
    edits: list[tuple[int, int]]
    place: Tensor


class _Group(NamedTuple):
    """What a kind does to the rows of a batch: `intervention` has a row for each of `rows`."""

    rule: Positions
    rows: Tensor
    intervention: Any
    edits: frozenset[tuple[int, int]]


class EditTable:
    """What each row's condition does at each site, looked up anew whenever the rows change.

    Rows that undergo interventions of one layout by the same position rule are edited together,
    with the interventions' fields stacked, a row each, and what is fitted shared. Edits of one
    condition at one site are applied in their order.
    """

    def __init__(self, model: LanguageModel, conditions: Sequence[Condition]) -> None:
        self._model = model
        self.conditions = conditions
        self._groups: dict[Site, list[_Group]] = {}
        self._active: dict[Site, list[tuple[_Group, Tensor | None]]] = {}
        gathered: dict[Site, dict[_Key, list[tuple[int, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for c, condition in enumerate(conditions):
            order: dict[Site, int] = defaultdict(int)
            for e, edit in enumerate(condition.edits):
                key = (order[edit.site], edit.positions, layout(edit.intervention))
                gathered[edit.site][key].append((c, e))
                order[edit.site] += 1
        self.expect_all()
        places: dict[tuple[int, ...], Tensor] = {}
        self._kinds = {
            site: [
                self._kind(site, key[1], edits, places)
                for key, edits in sorted(kinds.items(), key=lambda item: item[0][0])
            ]
            for site, kinds in gathered.items()
        }

    def _kind(
        self,
        site: Site,
        rule: Positions,
        edits: list[tuple[int, int]],
        places: dict[tuple[int, ...], Tensor],
    ) -> _Kind:
        owners = tuple(c for c, _ in edits)
        if owners not in places:
            place = torch.full((len(self.conditions),), -1)
            place[list(owners)] = torch.arange(len(owners))
            places[owners] = place
        # In float32 whatever the model's type: a projection in bfloat16 leaves a remainder.
        used = [self.conditions[c].edits[e].intervention for c, e in edits]
        stack = Stack(used, self._model.device_of(site), torch.float32)
        return _Kind(rule, stack, edits, places[owners])

    def set_rows(
        self,
        owners: Sequence[int],
        prompt_lengths: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> None:
        """Say which condition and prompt each row belongs to, and how long the prompt is."""
        self._lengths, self._prompts = prompt_lengths, prompts
        own, present = torch.tensor(owners), set(owners)
        selected: dict[tuple[int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

        def group(site: Site, kind: _Kind) -> _Group | None:
            edits = frozenset(edit for edit in kind.edits if edit[0] in present)
            if not edits:
                return None
            device = self._model.device_of(site)
            # Sites whose edits are of the same conditions share the tensor of rows.
            key = (id(kind.place), device)
            if key not in selected:
                place = kind.place[own]
                rows = (place >= 0).nonzero()[:, 0]
                numbers = prompts[rows.to(prompts.device)]
                selected[key] = rows.to(device), place[rows].to(device), numbers
            rows, index, numbers = selected[key]
            return _Group(kind.rule, rows, kind.stack.take(index, numbers), edits)

        self._groups = {
            site: [found for kind in kinds if (found := group(site, kind))]
            for site, kinds in self._kinds.items()
        }

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
                    every, touched = torch.stack([named.all(), named.any()]).tolist()
                    mask = None if every else named.to(group.rows.device)[..., None]
                    masks[key] = (mask, touched)
                mask, touched = masks[key]
                if touched:
                    self._active[site].append((group, mask))

    @property
    def visits(self) -> dict[Site, Visit]:
        """A visit for every site that any condition edits."""
        sites = {edit.site for condition in self.conditions for edit in condition.edits}
        return {site: partial(self.edit, site) for site in sites}

    def expect_all(self) -> None:
        """Begin a run of all conditions, after which `check_fired` holds again."""
        self._pending = {
            (c, e)
            for c, condition in enumerate(self.conditions)
            for e, edit in enumerate(condition.edits)
            if edit.positions in _CERTAIN
        }

    def check_fired(self) -> None:
        """Fail if an edit by a rule that names a token of every prompt never touched one.

        What other rules name is in some rows and not in others: `limits.check_listed` looks for it.

        Raises:
            ValueError: names the condition, the site and the rule.
        """
        for c, e in sorted(self._pending):
            edit = self.conditions[c].edits[e]
            raise ValueError(
                f"{self.conditions[c]}: the edit at {edit.site} never fired: no token stood "
                f"at positions {edit.positions!r}"
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
