"""Provenance of a fit: one record for all kinds of fits."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """The model, template and data that a fit was computed from.

    Attributes:
        model: hash of the weights; "" if the fit does not depend on a model.
        template: hash of the chat template.
        dataset: hash of the prompts.
        sites: the sites whose activations were used.
        how: the function and its options, in words.
        unembedding: hash of the final norm and the unembedding, if the fit belongs to them.
        named: whether `model` is a name instead of a hash, as in published files. A name is
            compared with the end of the model's path or hub id, which is weaker than a hash:
            different weights with the same name are accepted.
    """

    model: str
    template: str = ""
    dataset: str = ""
    sites: tuple[str, ...] = ()
    how: str = ""
    named: bool = False
    unembedding: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The provenance as a JSON-compatible dict."""
        return {**asdict(self), "sites": list(self.sites)}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> "Provenance":
        """Build the provenance from its `record`."""
        return cls(**{**record, "sites": tuple(record["sites"])})

    def require(self, what: str, **actual: str) -> None:
        """Fail if a fit is used with another model or template than it was fitted on.

        Args:
            what: the fit, for the error message.
            actual: field -> current value; empty values are not compared.

        Raises:
            ValueError: names both values of every field that differs.
        """
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        unlike = [
            f"{name} {known[name]}, this is {value}"
            for name, value in actual.items()
            if value and known[name] and known[name] != value
        ]
        if unlike:
            raise ValueError(f"{what} were made on {'; '.join(unlike)}")
