"""A feature's page says what its summary says, to whoever opens it, and is safe to open."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import numpy as np
import pytest
from families import tiny

from pipeline.measures.features import Example, FeatureSummary
from pipeline.views.dashboard import feature_page, visible

PIECES = {
    1: "<bos>",
    5: " the",
    6: " cat",
    7: "\n",
    8: "</span><script>alert('x')</script>",
    9: ' "quoted"&',
    10: "  ",
    11: "{{ 7 * 7 }}",
}
VOID = {"meta", "wbr", "line"}


class Reader(HTMLParser):
    """Elements with their attributes and text; fails where a tag is closed that is not open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict, list[str]]] = []
        self._open: list[int] = []
        self.feed(page)
        self.close()
        assert not self._open, [self.elements[number][0] for number in self._open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data):
        for number in self._open:
            self.elements[number][2].append(data)

    def of(self, kind: str) -> Iterator[tuple[dict, str]]:
        """Attributes and text of elements with this class."""
        for _, attributes, texts in self.elements:
            if kind in attributes.get("class", "").split():
                yield attributes, "".join(texts)

    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.elements}


def example(sample: int, tokens: list[int], activations: list[float], peak: int) -> Example:
    return Example(
        sample, peak, np.arange(len(tokens)), np.array(tokens), np.array(activations, float)
    )


@pytest.fixture
def summary() -> FeatureSummary:
    return FeatureSummary(
        feature=17,
        site="blocks.2.resid_post",
        kind="topk",
        n_features=4096,
        rows=120000,
        active=375,
        counts=np.array([0, 300, 74, 0, 1]),
        edges=np.array([0, 1.0, 2, 3, 4, 5]),
        examples=(
            example(3, [1, 5, 6, 7, 8], [np.nan, 0.0, 2.0, 0.0, 4.0], peak=4),
            example(9, [9, 10, 11, 5], [1.0, 0.0, 0.0, 0.0], peak=0),
        ),
        top=((6, 3.0), (8, 1.5)),
        bottom=((5, -6.0), (7, -0.6)),
    )


def page(summary, **settings) -> Reader:
    return Reader(feature_page(summary, PIECES.__getitem__, **settings))


def test_it_needs_nothing_but_itself(summary):
    text = feature_page(summary, PIECES.__getitem__)
    assert text.startswith("<!doctype html>")
    assert not re.search(r"https?:|//|@import|url\(|<link|<iframe|<img| src=| href=", text)
    assert Reader(text).tags().isdisjoint({"script", "link", "iframe", "img", "object"})
    assert text == feature_page(summary, PIECES.__getitem__)


def test_tokens_are_text_whatever_they_hold(summary):
    text = feature_page(summary, PIECES.__getitem__)
    assert "<script" not in text
    tokens = [shown for _, shown in page(summary).of("t")]
    assert tokens == [
        *("<bos>", "␣the", "␣cat", "⏎", "</span><script>alert('x')</script>"),
        *('␣"quoted"&', "␣␣", "{{␣7␣*␣7␣}}", "␣the"),
    ]


def test_what_cannot_be_seen_is_named():
    assert visible("a\tb\r") == "a⇥b\\x0d"
    assert visible("\u202eabc\xa0\ud800") == "\\u202eabc\\xa0\\ud800"
    assert visible("naïve 日本 😀") == "naïve␣日本␣😀"


def test_tokens_are_shaded_in_proportion_to_the_largest_activation(summary):
    shades = []
    for attributes, _ in page(summary).of("t"):
        found = re.search(r"rgba\(230,159,0,([\d.]+)\)", attributes.get("style", ""))
        shades.append(float(found[1]) if found else 0.0)
    assert shades == [0, 0, 0.5, 0, 1, 0.25, 0, 0, 0]
    titles = [attributes["title"] for attributes, _ in page(summary).of("t")]
    assert titles[4] == "4 at position 4" and titles[0] == "special token, not counted"
    peaks = [shown for attributes, shown in page(summary).of("peak")]
    assert peaks == ["</span><script>alert('x')</script>", '␣"quoted"&']


def test_logits_are_bars_of_their_size(summary):
    found = page(summary)
    widths = [re.search(r"width:([\d.]+)%", a["style"])[1] for a, _ in found.of("bar")]
    assert [float(width) for width in widths] == [50, 25, 100, 10]
    rows = [shown.split() for _, shown in found.of("logit")]
    assert rows == [
        ["␣cat", "+3.00"],
        ["</span><script>alert('x')</script>", "+1.50"],
        ["␣the", "−6.00"],
        ["⏎", "−0.60"],
    ]


def test_the_histogram_has_a_bar_for_every_bin_that_is_not_empty(summary):
    bars = list(page(summary).of("bin"))
    assert [attributes["data-count"] for attributes, _ in bars] == ["300", "74", "1"]
    heights = np.array([float(attributes["height"]) for attributes, _ in bars])
    expected = np.log10([301, 75, 2])
    np.testing.assert_allclose(heights / heights[0], expected / expected[0], rtol=1e-3)
    places = np.array([float(attributes["x"]) for attributes, _ in bars])
    np.testing.assert_allclose(np.diff(places)[1], 2 * np.diff(places)[0], rtol=1e-2)


def test_the_facts_are_there(summary):
    text = " ".join("".join(texts) for _, _, texts in page(summary).elements[:1])
    plain = " ".join(text.split())
    for fact in ("Feature 17", "blocks.2.resid_post", "topk", "4 096 features", "120 000 rows"):
        assert fact in plain.replace("\u202f", " ")
    assert "0.312 %" in plain and "1 row in 320" in plain and "375" in plain


def test_long_samples_are_cut_around_the_peak(summary):
    found = page(summary, around=1)
    assert [shown for _, shown in found.of("t")][:2] == ["⏎", PIECES[8]]
    texts = [shown for _, shown in found.of("text")]
    assert texts[0].startswith("…") and not texts[0].endswith("…")
    assert not texts[1].startswith("…") and texts[1].endswith("…")


def test_positions_that_were_not_collected_are_a_gap(summary):
    one = summary.examples[1]
    apart = Example(one.sample, one.peak, np.array([4, 5, 9, 10]), one.tokens, one.activations)
    found = Reader(feature_page(_with(summary, examples=(apart,)), PIECES.__getitem__))
    assert next(found.of("text"))[1] == '␣"quoted"&␣␣…{{␣7␣*␣7␣}}␣the'


def test_a_silent_feature_has_a_page_too(summary):
    silent = _with(summary, active=0, counts=np.array([], int), edges=np.zeros(1), examples=())
    text = feature_page(silent, PIECES.__getitem__)
    assert "It is active at none of these rows." in text
    assert not list(Reader(text).of("bin"))


def _with(summary: FeatureSummary, **changes) -> FeatureSummary:
    return FeatureSummary(**{**vars(summary), **changes})


def test_pieces_keep_the_blank_that_begins_them():
    model = tiny("llama")
    assert model.piece(50) == " " + model.tokenizer.convert_ids_to_tokens(50)
    assert model.piece(1).strip() == "<bos>"
