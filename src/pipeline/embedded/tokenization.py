"""The embedded model's tokenizer: byte-level BPE over words, so that any text round-trips.

A word is taken with the blank before it; every other blank, every line break, digit, sign and
Chinese character is a token of its own.
"""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 6144
SPECIAL = {"pad": "<pad>", "bos": "<bos>", "eos": "<end>", "user": "<user>", "model": "<model>"}
PIECES = r"\p{Han}|'[\p{L}&&[^\p{Han}]]+| ?[\p{L}&&[^\p{Han}]]+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
CHAT_TEMPLATE = (
    "<bos>"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>\n{{ message['content'] }}<end>\n"
    "{% elif message['role'] == 'assistant' %}<model>\n{{ message['content'] }}<end>\n"
    "{% else %}{{ raise_exception('roles are user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<model>\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A tokenizer of `VOCABULARY` entries, with chat template, as transformers loads it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL["bos"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=SPECIAL["eos"],
        pad_token=SPECIAL["pad"],
        extra_special_tokens=[SPECIAL["user"], SPECIAL["model"]],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )
