"""The models and prompts that are measured: random weights, random tokens."""

import functools
from dataclasses import dataclass

import tokenizers
import torch
import transformers

from pipeline.model.loading import LanguageModel


@dataclass(frozen=True)
class Size:
    """A Llama shape and how much of each work there is."""

    vocab: int
    width: int
    layers: int
    collected: int
    scored: int
    completed: int
    new_tokens: int
    rows: int


SIZES = {
    "tiny": Size(200, 64, 4, 40, 8, 4, 6, 2**12),
    # 45 million parameters with 8 thousand words; 4 GB of bfloat16 rows to read back.
    "full": Size(8000, 512, 12, 500, 64, 16, 24, 2**22),
}


@functools.cache
def random_model(size: Size) -> LanguageModel:
    """Llama's shape with random weights; its end token is never the likeliest."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.width * 11 // 4,
        num_hidden_layers=size.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        eos_token_id=2,
    )
    hf = transformers.AutoModelForCausalLM.from_config(config)
    # As trained models have it, logits are spread; at 0 the end token's is far below the largest.
    hf.lm_head.weight.data.mul_(6)[2] = 0
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"w{n}": n for n in range(size.vocab)}, unk_token="w1")
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2")
    return LanguageModel(hf, tokenizer, name="random")


def random_prompts(count: int, vocab: int) -> list[list[int]]:
    """Prompts of 16 to 64 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(16, 65, (count,), generator=generator).tolist()
    return [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in lengths]
