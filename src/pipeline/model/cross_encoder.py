"""Cross-encoders: models that read a question and an answer together, and score their fit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float

from pipeline.model.hub import check_path


class CrossEncoder:
    """A sequence classifier with one output: the logit that an answer fits a question.

    Source: Nogueira and Cho 2019, "Passage re-ranking with BERT".
    """

    def __init__(self, hf: Any, tokenizer: Any, name: str) -> None:
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name

    @classmethod
    def load(cls, path: str) -> "CrossEncoder":
        """Load a cross-encoder from a local folder or the Hugging Face Hub.

        Raises:
            ValueError: no model there, one without a classification head, or with several outputs.
        """
        check_path(path)
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            hf, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                path, output_loading_info=True, dtype=torch.float32
            )
        except (ValueError, OSError, KeyError, RuntimeError, ImportError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise ValueError(f"cross-encoder {path!r} cannot be loaded: {reason}") from error
        finally:
            transformers.logging.set_verbosity(verbosity)
        if report["missing_keys"]:
            raise ValueError(
                f"cross-encoder {path!r}: its files have no {min(report['missing_keys'])}"
            )
        if hf.config.num_labels != 1:
            raise ValueError(
                f"cross-encoder {path!r} has {hf.config.num_labels} outputs; valid: 1, the score"
            )
        return cls(hf, tokenizer, path)

    def score(
        self, questions: Sequence[str], answers: Sequence[str], batch: int = 32
    ) -> Float[np.ndarray, " pairs"]:
        """Compute the logit of each pair of a question and an answer; higher fits better.

        Pairs longer than the model's context are cut at the answer's end.
        """
        order = np.argsort([len(q) + len(a) for q, a in zip(questions, answers, strict=True)])
        scores = np.full(len(order), np.nan)
        longest = self.hf.config.max_position_embeddings
        for start in range(0, len(order), batch):
            block = order[start : start + batch]
            encoded = self.tokenizer(
                [questions[n] for n in block],
                [answers[n] for n in block],
                padding=True,
                truncation="only_second",
                max_length=longest,
                return_tensors="pt",
            )
            with torch.inference_mode():
                scores[block] = self.hf(**encoded).logits[:, 0].double().numpy()
        return scores
