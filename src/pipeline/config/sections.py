"""The typed sections of a study: the schema of its YAML."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = "???"
"""OmegaConf's marker of a mandatory value."""

Node = dict[str, Any]
"""A `_target_`, the Python path of a function, and its options: see `config.contracts`."""


@dataclass
class Model:
    """The model, its dtype and device, its chat template options, and the batch size in tokens.

    `device_map: auto` spreads a model over several GPUs. `system` is the system prompt, `template`
    further variables of the chat template.
    """

    path: str = MISSING
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    system: str | None = None
    template: dict[str, Any] = field(default_factory=dict)
    batch_tokens: int = 16384


@dataclass
class Collect:
    """Which activations to store, for the prompts of `splits`.

    Give `components`, such as `resid_pre`, for all layers, or single `sites`, such as
    `blocks.3.resid_post`; `positions` is a rule of `data.positions.COLLECTED`. `prompts` is a
    label, or column -> value or values; None: every prompt of the splits.
    """

    components: list[str] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    positions: Any = MISSING
    splits: list[str] = field(default_factory=lambda: ["train"])
    prompts: Any = None
    rows_per_shard: int = 4096


@dataclass
class DecodingSection:
    """How completions are decoded."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repeats: int = 1


@dataclass
class Arm:
    """The prompts that an arm's conditions run on, and how its setting is chosen.

    `prompts` is a label, or column -> value or values; None: every prompt. With a `goal` (`raise`
    or `lower` the `metric`) the conditions run on the val split, a setting is chosen there, and
    results are reported on the test split. Without a goal, all conditions run on `splits`. An arm
    without a `_target_` has only a baseline.
    """

    prompts: Any = None
    splits: list[str] = field(default_factory=lambda: ["test"])
    metric: str | None = None
    goal: str | None = None


@dataclass
class Sweep:
    """The arms to run, and their decoding.

    Each of `arms` is a node plus the fields of `Arm`. Arms can refer to `layers`:
    `layers: ${sweep.layers}`. `logit_metrics` score the logits after each prompt, by one forward
    pass without generation. With `decoding: null` nothing is generated at all.
    """

    arms: dict[str, Node] = MISSING
    layers: Any = "all"
    logit_metrics: dict[str, Node] = field(default_factory=dict)
    decoding: DecodingSection | None = field(default_factory=DecodingSection)
    seed: int = 0

    def arm(self, arm: str) -> Arm:
        """Return the `Arm` fields of an arm."""
        names = [f.name for f in dataclasses.fields(Arm)]
        return Arm(**{name: self.arms[arm][name] for name in names if name in self.arms[arm]})

    def node(self, arm: str) -> Node | None:
        """Return the node of an arm; None if it has only a baseline."""
        names = [f.name for f in dataclasses.fields(Arm)]
        node = {name: value for name, value in self.arms[arm].items() if name not in names}
        return node or None

    def chosen(self) -> list[str]:
        """List the arms whose setting is chosen on validation prompts."""
        return [name for name in self.arms if self.arm(name).goal is not None]


@dataclass
class Score:
    """Metrics of completions by name; the cluster column and seed of the bootstrap."""

    metrics: dict[str, Node] = field(default_factory=dict)
    cluster: str = "sample"
    seed: int = 0


@dataclass
class Tracking:
    """Where runs are recorded."""

    mode: str = "offline"
    project: str = "actsweep"
    entity: str | None = None


@dataclass
class Study:
    """A complete experiment: question, model, prompts, interventions and measurements.

    Its sections determine its stages. `code` and `digests` are filled in on composition: digests of
    the code and data of each stage and each fit, and of each section.
    """

    name: str = MISSING
    question: str = MISSING
    packages: list[str] = field(default_factory=list)
    model: Model = field(default_factory=Model)
    dataset: Node = MISSING
    text: str | None = None
    collect: Collect | None = None
    fits: dict[str, Node] = field(default_factory=dict)
    sweep: Sweep | None = None
    readings: dict[str, Node] = field(default_factory=dict)
    score: Score = field(default_factory=Score)
    figures: dict[str, Node] = field(default_factory=dict)
    tracking: Tracking = field(default_factory=Tracking)
    code: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """Return the study as plain containers."""
        return dataclasses.asdict(self)

    @property
    def sections(self) -> dict[str, Any]:
        """Return the config without the digests that composition adds."""
        return {k: v for k, v in self.config.items() if k not in ("code", "digests")}

    def value(self, key: str) -> Any:
        """Return the value at a dotted key of the config: `score.seed`, `fits.directions`."""
        value: Any = self.config
        for name in key.split("."):
            value = value[name]
        return value

    @property
    def id(self) -> str:
        """Hash of the study's resolved YAML, without tracking, which does not affect results."""
        config = {k: v for k, v in self.sections.items() if k != "tracking"}
        # In the config's order: results of arms that stand in another order are other bytes.
        text = json.dumps(config)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
