"""The typed sections of a study: what its YAML may say."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MISSING: Any = "???"
"""A value that a study must give, as OmegaConf writes it."""


@dataclass
class Model:
    """Which model, how it is held and spoken to, and how many tokens a batch may have.

    `device_map: auto` spreads a model over several GPUs. `system` is a system turn's text, and
    `template` holds further variables of the chat template.
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
    """Which activations of the train split are kept: components of all layers, at positions."""

    components: list[str] = MISSING
    positions: Any = MISSING
    rows_per_shard: int = 4096


@dataclass
class Controls:
    """How many directions of each kind of control are drawn."""

    shuffled: int = 3
    covariance: int = 3
    isotropic: int = 3


@dataclass
class Selection:
    """How (position, layer) is chosen on the validation split, by bypass / induce / kl."""

    refusal_tokens: list[str] = MISSING
    max_kl: float = 0.1
    min_steering: float = 0.0
    layer_share: float = 0.8


@dataclass
class Vectors:
    """Which classes of prompts are told apart at which component, by which method, and controls."""

    component: str = MISSING
    positive: str = MISSING
    negative: str = MISSING
    method: dict[str, Any] = MISSING
    position: int = -1
    selection: Selection | None = None
    controls: Controls = field(default_factory=Controls)
    seed: int = 0


@dataclass
class Decoding:
    """How completions are decoded."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repeats: int = 1


@dataclass
class Arm:
    """One part of a sweep: an intervention on the prompts of one label.

    `everywhere` edits all layers with the direction of the swept layer. `metric` is what the arm
    is meant to `raise` or `lower`: by it strength and position rule are chosen on the val split.
    An arm without strengths is a baseline alone.
    """

    prompts: str = MISSING
    intervention: dict[str, Any] | None = None
    components: list[str] = field(default_factory=list)
    everywhere: bool = False
    strengths: list[float] = field(default_factory=list)
    positions: list[Any] = field(default_factory=lambda: ["all"])
    metric: str = MISSING
    goal: str = "raise"

    @property
    def rules(self) -> dict[str, Any]:
        """Position rules by the names that tables have for them: a list goes by its text."""
        return {str(rule): rule for rule in self.positions}


@dataclass
class Sweep:
    """What runs, on the val split to choose and on the test split to report, decoded how.

    `logit_metrics` score the logits after each prompt: one forward pass, nothing generated. With
    `decoding: null` they are all there is.
    """

    arms: dict[str, Arm] = MISSING
    layers: Any = "all"
    logit_metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    decoding: Decoding | None = field(default_factory=Decoding)
    seed: int = 0


@dataclass
class Score:
    """Metrics of completions by name, and how uncertainty is reckoned."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    cluster: str = "sample"
    seed: int = 0


@dataclass
class Autoencoders:
    """Sparse autoencoders: at `sites` trained on completions of all prompts, `recorded` of each.

    At the sites of `files` they are read from there, an `.npz` of Gemma Scope or a folder of
    SAELens. `trained_at` is the name of their model, for files that do not say it, or where the
    model is loaded by another name than they say.

    Features are attributed and ablated in the completions of the prompts of `label`: `top` of each
    site, and `random` draws of as many others. The metric is logit(`blank`) - logit(`line_break`)
    after the last item's last token. `checked` attributions of each site are compared with true
    ablations. For which topics there is a feature is compared over dictionaries of `sizes` at the
    site `sizes_at`. Features that did not fire begin anew every `revive_every` steps of training,
    or every quarter of all steps, at most 500.
    """

    label: str = MISSING
    sites: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    trained_at: str | None = None
    blank: str = " "
    line_break: str = "\n"
    recorded: int = 20
    kind: str = "topk"
    n_features: int = 512
    k: int = 16
    sparsity: float = 0.0
    learning_rate: float = 1e-3
    revive_every: int | None = None
    passes: int = 5
    top: int = 5
    random: int = 3
    checked: int = 50
    sizes: list[int] = field(default_factory=list)
    sizes_at: str | None = None
    seed: int = 0

    @property
    def all_sites(self) -> list[str]:
        """Of files, then those that are trained at."""
        return [*self.files, *self.sites]

    @property
    def read(self) -> list[Path]:
        """All files that `files` names, those in its folders too."""
        places = map(Path, self.files.values())
        return sorted(
            path for place in places for path in (place.rglob("*") if place.is_dir() else [place])
        )


@dataclass
class Tracking:
    """Where runs are recorded."""

    mode: str = "offline"
    project: str = "actsweep"
    entity: str | None = None


@dataclass
class Study:
    """A whole experiment: what is asked, of which model, with which prompts, done and measured.

    `code` is written by the compose stage: a digest of the source and data of each stage.
    """

    name: str = MISSING
    question: str = MISSING
    packages: list[str] = field(default_factory=list)
    model: Model = field(default_factory=Model)
    dataset: dict[str, Any] = MISSING
    text: str | None = None
    collect: Collect = field(default_factory=Collect)
    vectors: Vectors = field(default_factory=Vectors)
    sweep: Sweep = field(default_factory=Sweep)
    score: Score = field(default_factory=Score)
    figures: dict[str, dict[str, Any]] = MISSING
    autoencoders: Autoencoders | None = None
    tracking: Tracking = field(default_factory=Tracking)
    code: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The whole study as plain containers."""
        return dataclasses.asdict(self)

    @property
    def id(self) -> str:
        """Hash of what the study's YAML resolves to, without tracking, which changes no result."""
        config = {k: v for k, v in self.config.items() if k not in ("tracking", "code")}
        text = json.dumps(config, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
