"""Small random-weight models of several families, and a tokenizer for them."""

import copy
import functools
from pathlib import Path

import tokenizers
import torch
import transformers

from pipeline.model.chat import UNLIKE
from pipeline.model.loading import LanguageModel

VOCAB, LAYERS, WIDTH = 200, 4, 32
BOS = "<bos>"
_COMMON = {"vocab_size": VOCAB, "num_hidden_layers": LAYERS}
_SIZED = {**_COMMON, "hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 4}
_GROUPED = {**_SIZED, "num_key_value_heads": 2}
_WRAPPED = {
    "text_config": {**_GROUPED, "head_dim": 16, "sliding_window": 8, "eos_token_id": 3},
    "vision_config": {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    },
    "mm_tokens_per_image": 1,
    "image_token_index": VOCAB - 3,
}
# z of the Gemma shapes is wider than d_model (4 heads of 16), as in the real ones; sliding window.
_GEMMA = {**_GROUPED, "head_dim": 16, "sliding_window": 8}
CONFIGS = {
    "llama": (transformers.LlamaConfig, _GROUPED),
    "llama_tied": (transformers.LlamaConfig, {**_GROUPED, "tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {**_GROUPED, "sliding_window": 8}),
    "gemma": (transformers.GemmaConfig, {**_GROUPED, "head_dim": 16}),
    "gemma2": (transformers.Gemma2Config, _GEMMA),
    "gemma3": (transformers.Gemma3TextConfig, _GEMMA),
    "gemma3_wrapped": (transformers.Gemma3Config, _WRAPPED),
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": VOCAB, "n_layer": LAYERS, "n_embd": WIDTH, "n_head": 4, "n_positions": 256},
    ),
    "neox": (transformers.GPTNeoXConfig, _SIZED),
    "neox_serial": (transformers.GPTNeoXConfig, {**_SIZED, "use_parallel_residual": False}),
    "qwen2": (transformers.Qwen2Config, _GROUPED),
    "phi3": (transformers.Phi3Config, {**_GROUPED, "sliding_window": 8}),
    "qwen3": (transformers.Qwen3Config, {**_GROUPED, "head_dim": 16}),
    "olmo2": (transformers.Olmo2Config, _GROUPED),
}
FAMILIES = tuple(CONFIGS)


@functools.cache
def tiny(family: str, layers: int = LAYERS, width: int = WIDTH, seed: int = 0) -> LanguageModel:
    """A model of the family with weights large enough for logits to have spread."""
    kind, arguments = CONFIGS[family]
    sized = _resized(arguments, layers, width)
    config = kind(**sized, eos_token_id=3, bos_token_id=1, pad_token_id=0)
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.15)
    return LanguageModel(hf, tokenizer(), name=family)


def in_batches_of(batch_tokens: int, family: str = "llama") -> LanguageModel:
    """The family's model, for a study whose batches have so many tokens."""
    model = copy.copy(tiny(family))
    model.batch_tokens = batch_tokens
    return model


def _resized(arguments: dict, layers: int, width: int) -> dict:
    if "text_config" in arguments:
        return {**arguments, "text_config": _resized(arguments["text_config"], layers, width)}
    if "n_layer" in arguments:
        return {**arguments, "n_layer": layers, "n_embd": width}
    return {**arguments, "num_hidden_layers": layers, "hidden_size": width}


@functools.cache
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Words w6 ... w199, after the special tokens and two words that chat templates need."""
    vocab = {word: i for i, word in enumerate(["<pad>", "<bos>", "<unk>", "<eos>"])}
    # The last words of the two instructions that find a template's length come first.
    words = [text.split()[-1] for text in UNLIKE]
    vocab |= {word: 4 + i for i, word in enumerate(words)}
    vocab |= {f"w{i}": i for i in range(4 + len(words), VOCAB)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )


def byte_tokenizer(template: str | None, *, adds_bos: bool) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer trained on a few sentences; `adds_bos` as Llama's and Gemma's do."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    text = ["The capital of France is Paris. The Eiffel Tower is in Paris, which is in France."]
    marks = [BOS, "<user>", "<system>", "<end>", "<answer>", "<no>"]
    backend.train_from_iterator(
        text * 2,
        tokenizers.trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=marks,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if adds_bos:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token="<end>"
    )
    made.chat_template = template
    return made


def write_model(family: str, folder: Path, template: str | None) -> None:
    """A random-weight model of the family with a byte-level tokenizer, as a folder to load."""
    made = byte_tokenizer(template, adds_bos=False)
    kind, arguments = CONFIGS[family]
    config = kind(**arguments, bos_token_id=0, eos_token_id=3)
    config.get_text_config().vocab_size = len(made)
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.save_pretrained(folder)
    made.save_pretrained(folder)


def random_prompts(count: int, seed: int = 0, longest: int = 14) -> list[list[int]]:
    """Prompts of unlike lengths, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [torch.randint(4, VOCAB, (n,), generator=generator).tolist() for n in lengths]
