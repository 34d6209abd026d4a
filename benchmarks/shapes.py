"""The models and prompts that are measured: random weights, random tokens."""

import functools
from dataclasses import dataclass, replace

import tokenizers
import torch
import transformers

from pipeline.model.loading import DTYPES, LanguageModel


@dataclass(frozen=True)
class Shape:
    """A model's family and sizes, and where it runs."""

    vocab: int
    width: int
    inner: int
    layers: int
    heads: int = 8
    kv_heads: int = 4
    head_width: int = 64
    family: str = "llama"
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder, and the activations that it is trained on: sums of planted features."""

    rows: int
    batch: int
    width: int
    features: int
    k: int
    planted: int


@dataclass(frozen=True)
class Causal:
    """Causal work: entities and heads to patch, prompts, and facts to trace and to edit."""

    entities: int
    heads: int
    contexts: int
    facts: int
    noises: int
    tokens: int
    samples: int


@dataclass(frozen=True)
class Size:
    """How much of each work there is.

    Attributes:
        model: what most works run.
        wide: a large vocabulary, for collection.
        gpu: what a GPU is measured with.
        chat: a small chat model.
        collected: prompts to collect from; `collected_wide` with the large vocabulary.
        collected_wide: the same, where a pass costs more.
        scored: prompts of a forward sweep.
        contexts: prompts of a sweep over neurons.
        neurons: of a layer, to sweep over.
        completed: prompts of a generation sweep; `few` of the smaller one.
        few: see `completed`.
        new_tokens: of each completion; `longest` where lengths are mixed, and on a GPU.
        longest: see `new_tokens`.
        strengths: of every layer's direction, in sweeps.
        every: of so many conditions a loop over them runs one; its time is that of a condition
            times their number.
        rows: of 512 bfloat16 numbers, to read back.
        autoencoder: to train.
        causal: to patch, to trace and to edit.
    """

    model: Shape
    wide: Shape
    gpu: Shape
    chat: Shape
    collected: int
    collected_wide: int
    scored: int
    contexts: int
    neurons: int
    completed: int
    few: int
    new_tokens: int
    longest: int
    strengths: tuple[float, ...]
    every: int
    rows: int
    autoencoder: Autoencoder
    causal: Causal


SIZES = {
    "tiny": Size(
        model=Shape(200, 64, 176, 4, head_width=8),
        wide=Shape(1000, 64, 176, 2, head_width=8),
        gpu=Shape(200, 64, 176, 2, head_width=16, family="gemma2", dtype="bfloat16"),
        chat=Shape(300, 48, 128, 3, heads=3, kv_heads=1, head_width=16),
        collected=40,
        collected_wide=8,
        scored=8,
        contexts=4,
        neurons=176,
        completed=4,
        few=2,
        new_tokens=6,
        longest=12,
        strengths=(-2.0, -1.0, 0.5, 1.0, 2.0),
        every=3,
        rows=2**12,
        autoencoder=Autoencoder(2**17, 256, 128, 512, k=8, planted=128),
        causal=Causal(3, 4, contexts=3, facts=2, noises=2, tokens=6, samples=3),
    ),
    "full": Size(
        # 44 million parameters.
        model=Shape(8_000, 512, 1408, 12),
        # 0.6 billion; 0.36 without the embedding and the head.
        wide=Shape(151_936, 896, 4864, 24, heads=14, kv_heads=2),
        # Gemma-2-2b.
        gpu=Shape(
            256_000,
            2304,
            9216,
            26,
            head_width=256,
            family="gemma2",
            dtype="bfloat16",
            device="cuda",
        ),
        # SmolLM2-135M-Instruct.
        chat=Shape(49_152, 576, 1536, 30, heads=9, kv_heads=3),
        collected=500,
        collected_wide=100,
        scored=64,
        contexts=32,
        neurons=1408,
        completed=16,
        few=4,
        new_tokens=24,
        longest=64,
        strengths=(-2.0, -1.0, 0.5, 1.0, 2.0),
        # Five strengths: each has its turn, at another depth.
        every=13,
        # 4 GB.
        rows=2**22,
        autoencoder=Autoencoder(2**17, 1024, 512, 4096, k=32, planted=1024),
        causal=Causal(32, 12, contexts=25, facts=16, noises=10, tokens=10, samples=8),
    ),
}


# Against "full" these show whether memory grows with the number of samples, or of conditions.
_FULL = SIZES["full"]
SIZES["half the samples"] = replace(
    _FULL,
    collected=_FULL.collected // 2,
    collected_wide=_FULL.collected_wide // 2,
    scored=_FULL.scored // 2,
    contexts=_FULL.contexts // 2,
    completed=_FULL.completed // 2,
    few=_FULL.few // 2,
    rows=_FULL.rows // 2,
    autoencoder=replace(_FULL.autoencoder, rows=_FULL.autoencoder.rows // 2),
    causal=replace(_FULL.causal, entities=16, contexts=12, facts=8, samples=4),
)
SIZES["two of five conditions"] = replace(
    _FULL, strengths=_FULL.strengths[:2], neurons=_FULL.neurons * 2 // 5
)


# One at a time: the wide one and its peers' copies take most of a small machine.
@functools.lru_cache(maxsize=1)
def random_model(shape: Shape) -> LanguageModel:
    """A model with random weights; its end token is never the likeliest."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        shape.family,
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        max_position_embeddings=512,
        eos_token_id=2,
    )
    with torch.device(shape.device):
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[shape.dtype])
    # As trained models have it, logits are spread; at 0 the end token's is far below the largest.
    hf.lm_head.weight.data.mul_(6)[2] = 0
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"w{n}": n for n in range(shape.vocab)}, unk_token="w1")
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2")
    return LanguageModel(hf, tokenizer, name="random")


class Ending(LanguageModel):
    """The same model, whose completions end where they are told to."""

    def __init__(self, model: LanguageModel, ends: frozenset[int]) -> None:
        super().__init__(model.hf, model.tokenizer, name=model.name)
        self._ends = ends

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a completion."""
        return self._ends


def random_prompts(count: int, vocab: int, shared: int = 0) -> list[list[int]]:
    """Prompts of 16 to 64 tokens, after so many tokens that all of them share."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(16, 65, (count,), generator=generator).tolist()
    begin = list(range(3, 3 + shared))
    return [begin + torch.randint(3, vocab, (n,), generator=generator).tolist() for n in lengths]
