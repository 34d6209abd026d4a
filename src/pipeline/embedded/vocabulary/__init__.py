"""The words of the embedded model's corpus."""


def words(text: str) -> tuple[str, ...]:
    """What stands between blanks."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """What stands between commas, over several lines."""
    return tuple(" ".join(text.split()).split(", "))
