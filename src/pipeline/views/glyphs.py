"""Token texts in a form that figures can draw."""

from functools import cache
from importlib.resources import files
from importlib.util import find_spec

from matplotlib.font_manager import findfont, fontManager, get_font

from pipeline.views.dashboard import visible

FAMILIES = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
)
"""The first ships with matplotlib; the others have Chinese glyphs."""
_PACKAGED = "noto_cjk_sans_otc"
"""Package of the second, of the extra `fonts`."""


@cache
def families() -> list[str]:
    """Return the installed `FAMILIES`, for the `fontfamily` of a text."""
    if find_spec(_PACKAGED) is not None:
        fontManager.addfont(str(files(_PACKAGED) / "NotoSansCJK-Regular.ttc"))
    installed = set(fontManager.get_font_names())
    return [family for family in FAMILIES if family in installed]


def drawable(text: str, most: int | None = None) -> str:
    """Format a text like `visible`, with U+4E2D for a character without a glyph.

    Beyond `most` characters it is truncated with an ellipsis. Dollar signs are escaped, since two
    of them would enclose a formula.
    """
    shown = "".join(c if ord(c) in _glyphs() else f"U+{ord(c):04X}" for c in visible(text))
    if most is not None and len(shown) > most:
        shown = shown[: most - 1] + "…"
    return shown.replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    fonts = [get_font(findfont(family)) for family in families()]
    return frozenset(code for font in fonts for code in font.get_charmap())
