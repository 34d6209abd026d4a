"""Load a causal language model, and map sites to its modules."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from os import PathLike
from typing import Any

import torch
import transformers
from jaxtyping import Int
from torch import Tensor, nn

from pipeline.config.sections import Model
from pipeline.model import chat
from pipeline.model.architectures import architecture_of
from pipeline.model.dtypes import DTYPES, check_dtype, choose_device, resolve_dtype
from pipeline.model.gguf import local_path
from pipeline.model.hub import check_path, folder_digest
from pipeline.model.sites import Site, check_middle
from pipeline.model.tokenization import encode
from pipeline.model.tokenizer import load_tokenizer
from pipeline.model.weights import empty_model, load_config, load_weights, unheeded

log = logging.getLogger(__name__)

_MODULES = {
    "resid_pre": ("", "input"),
    "pattern": ("pattern", "output"),
    "z": ("heads", "input"),
    "attn_out": ("attention", "output"),
    "resid_mid": ("middle", "input"),
    "mlp_act": ("neurons", "input"),
    "mlp_down": ("neurons", "both"),
    "mlp_out": ("mlp", "output"),
    "resid_post": ("", "output"),
}


class NeedsRun(Exception):  # noqa: N818 - it is no error
    """Raised if a result requires running the model, but only its shapes are loaded."""


class LanguageModel:
    """A Hugging Face causal language model with its tokenizer and sites.

    Attributes:
        parts: number of parts that batches are split into after memory ran out: `engine.memory`.
        batch_tokens: token budget of a batch.
        system: text of the system turn of prompts; None for none.
        template: further variables of the chat template.

    Raises:
        ValueError: no row in `ARCHITECTURES` for the model type.
    """

    def __init__(self, hf: Any, tokenizer: Any, *, name: str, weights: str = "") -> None:
        self.architecture = architecture_of(hf.config, name)
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.weights = weights
        self.config = hf.config.get_text_config()
        self.decoder: Any = hf.base_model.get_submodule(self.architecture.decoder)
        self.blocks: nn.ModuleList = getattr(self.decoder, self.architecture.blocks)
        self.n_layers = len(self.blocks)
        self.d_model: int = self.config.hidden_size
        self.n_heads: int = self.config.num_attention_heads
        self.parallel = self.architecture.side_by_side(self.config)
        self.parts = 1
        self.batch_tokens = 16384
        self.system: str | None = None
        self.template: Mapping[str, Any] = {}

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        device_map: str | None = None,
    ) -> "LanguageModel":
        """Load a model from a local folder or the Hugging Face Hub.

        Args:
            path: folder with a model, GGUF file, or Hub id.
            revision: branch, tag or commit on the Hub.
            dtype: name of a torch dtype; `auto` is that of the file, usually bfloat16, or on a CPU
                what is fast there: `dtypes.resolve_dtype`.
            device: torch device; `auto` is CUDA, else MPS, else the CPU.
            device_map: how accelerate spreads the model, such as `auto` over all GPUs; None for a
                single device.

        Raises:
            ValueError: no model at the path, an unknown dtype or device, accelerate is missing, or
                weights or a tokenizer that do not belong to the config.
        """
        path = str(path)
        check_dtype(dtype)
        check_device_map(device_map)
        check_path(path, revision)
        device = choose_device(device)
        config = load_config(path, revision)
        architecture_of(config, path)
        stored = config.dtype
        chosen = resolve_dtype(dtype, device, stored)
        if dtype == "auto" and DTYPES[chosen] is not (stored or torch.float32):
            log.warning("dtype auto: %s, as %s is slow on this processor", chosen, stored)
        tokenizer = load_tokenizer(path, revision)
        if not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        hf = load_weights(
            path, config, revision=revision, dtype=DTYPES[chosen], device_map=device_map
        )
        ignored = unheeded(hf.generation_config, tokenizer.eos_token_id)
        if ignored:
            log.warning(
                "completions do not follow the generation_config of %s: %s",
                path,
                "; ".join(ignored),
            )
        return cls(
            hf if device_map else hf.to(device),
            tokenizer,
            name=path,
            weights=folder_digest(local_path(path)) or str(hf.config._commit_hash),
        )

    @property
    def device(self) -> torch.device:
        """Device of the model's inputs."""
        return self.hf.device

    def device_of(self, site: Site) -> torch.device:
        """Return the device of the activation at a site: a model may span several devices."""
        return next(self.module_of(site)[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights and activations."""
        return self.hf.dtype

    def check(self, site: Site) -> Site:
        """Return the site if this model has it.

        Raises:
            ValueError: names the site and the valid ones.
        """
        if not 0 <= site.layer < self.n_layers:
            raise ValueError(
                f"{site}: {self.name} has no layer {site.layer}; valid: 0 to {self.n_layers - 1}"
            )
        check_middle(site.component, self.name, self.parallel)
        if site.unit is not None:
            count = self.n_heads if site.component == "z" else self.width(Site(0, "mlp_act"))
            if site.unit >= count:
                raise ValueError(f"{site}: no such unit in {self.name}; valid: 0 to {count - 1}")
        return site

    def module_of(self, site: Site) -> tuple[nn.Module, str]:
        """Return the module of a site, and whether the site is its `input`, `output` or `both`."""
        block = self.blocks[site.layer]
        part, side = _MODULES["resid_pre" if site.component == "embed" else site.component]
        return (block.get_submodule(getattr(self.architecture, part)) if part else block), side

    def width(self, site: Site) -> int:
        """Return the width of the activation at a site: `d_model` for residual stream components.

        Raises:
            ValueError: an attention pattern, which is [head, pos, pos].
        """
        if site.component == "pattern":
            raise ValueError(f"{site} is [head, pos, pos]: it has no width")
        if site.component == "mlp_down":
            return self.width(Site(site.layer, "mlp_act")) + self.d_model
        if site.component not in ("z", "mlp_act"):
            return self.d_model
        weight: Tensor = self.module_of(site)[0].weight  # type: ignore[assignment]
        # GPT-2 stores its projections transposed, as Conv1D [in, out].
        transposed = self.module_of(site)[0].__class__.__name__ == "Conv1D"
        full = weight.shape[0 if transposed else 1]
        if site.unit is None:
            return full
        return full // self.n_heads if site.component == "z" else 1

    def pad(
        self, rows: Sequence[Sequence[int]]
    ) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
        """Left-pad rows of tokens; return ids and attention mask on the model's device.

        Raises:
            NeedsRun: the model was loaded without weights.
            ValueError: a token past the embedding.
        """
        if self.device.type == "meta":
            raise NeedsRun(f"{self.name} was loaded without weights")
        self.check_token(max(max(row) for row in rows))
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for r, row in enumerate(rows):
            ids[r, width - len(row) :] = torch.tensor(row)
            mask[r, width - len(row) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def check_token(self, token: int) -> None:
        """Raise a ValueError if a token is past the embedding."""
        last = self.hf.get_input_embeddings().weight.shape[0] - 1
        if token > last:
            raise ValueError(
                f"token {token} ({self.tokenizer.decode([token])}): {self.name} has embeddings "
                f"0 to {last}"
            )

    def prompts(self, instructions: Iterable[str]) -> list[list[int]]:
        """Render instructions with the chat template and tokenize them.

        Raises:
            ValueError: one text in place of a list.
        """
        render = partial(chat.render, self.tokenizer, system=self.system, variables=self.template)
        return [encode(self.tokenizer, render(text)) for text in chat.listed(instructions)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode tokens to text, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def piece(self, token: int) -> str:
        """Decode one token as inside a sentence, with its leading space and special tokens."""
        # Decoded after another token: some tokenizers drop the space at the start of a text.
        try:
            before = self.tokenizer.encode("a", add_special_tokens=False)
        # The tokenizers library raises nothing narrower where a vocabulary has no letter a.
        except Exception:
            before = [token]
        texts = [
            self.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            for tokens in (before, [*before, token])
        ]
        return texts[1][len(texts[0]) :]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a completion, from generation config and tokenizer."""
        ends = self.hf.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(t for t in [*listed, self.tokenizer.eos_token_id] if t is not None)


def load_model(section: Model) -> LanguageModel:
    """Load the model of a study."""
    model = LanguageModel.load(
        section.path,
        revision=section.revision,
        dtype=section.dtype,
        device=section.device,
        device_map=section.device_map,
    )
    return _as_in(section, model)


def without_weights(section: Model, tokenizer: Any) -> LanguageModel:
    """Build the model of a study on the meta device, without weights, to check shapes fast."""
    hf = empty_model(section.path, load_config(section.path, section.revision))
    model = LanguageModel(hf, tokenizer, name=section.path)
    return _as_in(section, model)


def _as_in(section: Model, model: LanguageModel) -> LanguageModel:
    model.batch_tokens = section.batch_tokens
    model.system, model.template = section.system, section.template
    return model


def check_device_map(device_map: str | None) -> None:
    """Check that accelerate is installed if a device map is given.

    Raises:
        ValueError: accelerate is missing; says how to install it.
    """
    if device_map is not None and find_spec("accelerate") is None:
        raise ValueError(
            f"device_map {device_map!r} needs accelerate: pip install 'actsweep[gpus]'"
        )
