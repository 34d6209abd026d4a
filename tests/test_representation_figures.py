"""Figures of embeddings, tokens and senses draw the numbers of their tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.bands import band_over
from pipeline.measures.statistics import wilson
from pipeline.views.embeddings import analogy_bars, neighbour_lists
from pipeline.views.panels import save
from pipeline.views.projection import projection_panels
from pipeline.views.similarity import similarity_curves
from pipeline.views.tokens import token_boxes, token_counts

WORDS = [f"word{n}" for n in range(12)]


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


def texts_of(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.fixture(scope="module")
def similarity() -> pd.DataFrame:
    """The difference is 0 at layers 0 and 1 and above it from layer 2 on."""
    draw = np.random.default_rng(0)
    rows = [
        {"topic": word, "layer": layer, "measure": measure, "shuffle": shuffle}
        for word in WORDS
        for layer in range(4)
        for measure in ("raw", "relative", "centred")
        for shuffle in range(5)
    ]
    table = pd.DataFrame(rows).assign(split="test", component="resid_pre", contexts=6)
    noise = draw.normal(0, 0.01, len(table)) * (table["layer"] > 0)
    shift = 0.2 * ((table["layer"] > 1) & (table["shuffle"] == 0))
    table["difference"] = noise + shift
    return table.assign(unrelated=0.3, different=0.5, same=0.5 + table["difference"])


def test_similarity_curves_are_the_means_over_words_and_name_the_first_layer(similarity, tmp_path):
    figure = similarity_curves({"s": similarity}, 0, reading="s")
    assert len(figure.axes) == 6
    raw = similarity[(similarity["measure"] == "raw") & (similarity["shuffle"] == 0)]
    for axes, columns in (
        (figure.axes[0], ("same", "different")),
        (figure.axes[3], ("difference",)),
    ):
        for column in columns:
            (line,) = (x for x in axes.lines if x.get_label() == column)
            np.testing.assert_allclose(line.get_ydata(), raw.groupby("layer")[column].mean())
    shuffled = similarity[(similarity["measure"] == "raw") & (similarity["shuffle"] > 0)]
    means = shuffled.groupby(["shuffle", "layer"])["difference"].mean().unstack()
    corners = figure.axes[3].collections[-1].get_paths()[0].vertices
    assert corners[:, 1].max() == pytest.approx(means.quantile(0.975).max())
    options = {"cluster": "topic", "share": False, "seed": 0}
    band = band_over(raw.assign(score=raw["difference"]), "layer", range(4), **options)
    text = caption(figure)
    best = int(band.mean.argmax())
    assert "The raw difference is above 0 from layer 2 on" in text
    assert f"largest at layer {best}: {band.mean[best]:.3f}, {band.low[best]:.3f} to" in text
    assert "Test split, n = 12 words in 6 contexts each" in text and "4 labellings" in text
    assert figure.axes[3].get_xlabel() == "layer whose input is read"
    save(figure, tmp_path / "similarity.png", {})


def test_without_a_difference_or_shuffles_the_caption_says_so(similarity):
    none = similarity[similarity["shuffle"] == 1].assign(shuffle=0)
    text = caption(similarity_curves({"s": none}, 0, reading="s"))
    assert "At the last layer the raw difference cannot be told from 0." in text
    assert "No control." in text


@pytest.fixture(scope="module")
def planes() -> pd.DataFrame:
    rows = [
        {"sample": n, "topic": word, "label": sense}
        for n, (word, sense) in enumerate(
            (word, sense) for word in WORDS[:2] for sense in "ab" for _ in range(3)
        )
    ]
    table = pd.DataFrame(rows).merge(pd.DataFrame({"layer": [1, 5]}), how="cross")
    table = table.assign(split="test", component="resid_pre", method="pca", x=table["sample"])
    table = table.assign(y=table["layer"], share_1=0.5, share_2=0.25, perplexity=np.nan)
    # The next sample: of another sense for the last of each sense.
    table["neighbour"] = (table["sample"] + 1) % 12
    table["plane_neighbour"] = 0
    tsne = table.assign(method="tsne", perplexity=4.0, share_1=np.nan, share_2=np.nan)
    return pd.concat([table, tsne])


def test_planes_show_their_points_and_count_neighbours_of_the_same_sense(planes, tmp_path):
    figure = projection_panels({"p": planes}, reading="p")
    for axes, layer in zip(figure.axes, (1, 5), strict=True):
        points = np.concatenate([kind.get_offsets() for kind in axes.collections])
        assert points.tolist() == [[n, layer] for n in range(12)]
        assert texts_of(axes) == ["neighbours of the same sense: 8 of 12, in the plane 3"]
        assert axes.get_xlabel() == "PC 1 (50 %)" and axes.get_ylabel() == "PC 2 (25 %)"
    # Of five other contexts of a word two are of the same sense.
    assert f"context of the word, {12 * 2 / 5:.0f} of 12 would be" in caption(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["word0: a", "word0: b", "word1: a", "word1: b"]
    tsne = caption(projection_panels({"p": planes}, reading="p", method="tsne"))
    assert "perplexity 4" in tsne and "distances between clusters" in tsne
    save(figure, tmp_path / "planes.png", {})
    many = planes.assign(topic=planes["sample"].astype(str))
    with pytest.raises(ValueError, match=r"reading p has 12 words \(topics\); valid: up to 8"):
        projection_panels({"p": many}, reading="p")


def test_bars_of_analogies_are_the_shares_of_first_ranks_with_the_gain():
    rows = pd.DataFrame({"sample": np.arange(40) // 2, "topic": "capital"}).assign(
        rank=[1, 1] * 10 + [2, 5] * 10,
        rank_without_offset=3,
        rank_with_inputs=2,
        rank_of_other_offset=np.nan,
        split="test",
        pairs=20,
        left_out=3,
        vocabulary=103,
        table="embedding",
        **dict.fromkeys("abcd", " x"),
    )
    table = pd.concat([rows.assign(space="cosine"), rows.assign(space="dot", rank=1)])
    figure = analogy_bars({"a": table}, 0, reading="a")
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.patches if bar.get_width() < 0.5]
    # Without a second relation there is no third bar.
    assert heights == [0.5, 0, 0]
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert low < 0.5 < high < 0.5 + 2 * (wilson(0.5, 20)[1] - 0.5)
    (gain,) = texts_of(axes)
    assert gain.startswith("+50 points\n+")
    text = caption(figure)
    assert "n = 40 analogies" in text and "one token: 3." in text and "Chance: 1 of 100." in text
    assert "cosine 50 %; dot 100 %" in text
    with pytest.raises(ValueError, match="no rows with space = euclid; present: cosine, dot"):
        analogy_bars({"a": table}, 0, reading="a", space="euclid")


def test_lists_of_neighbours_show_every_piece():
    table = pd.DataFrame(
        [
            (" cat", space, rank, 7 + rank, piece, 0.5)
            for space in ("cosine", "dot")
            for rank, piece in ((1, " dog"), (2, "\N{REPLACEMENT CHARACTER}"))
        ],
        columns=["word", "space", "rank", "neighbour", "piece", "similarity"],
    ).assign(table="embedding")
    (axes,) = neighbour_lists({"n": table}, reading="n").axes
    assert axes.get_title(loc="left") == "cat"
    assert texts_of(axes).count("0.50") == 2 and texts_of(axes).count("0.5") == 2
    assert texts_of(axes).count("␣dog") == texts_of(axes).count("#9") == 2
    assert {"cosine", "dot"} <= set(texts_of(axes))


@pytest.fixture(scope="module")
def tokens() -> pd.DataFrame:
    """A text of 60 tokens, which needs several lines, and one of two, with half a character."""
    long = pd.DataFrame({"piece": [f" piece{n}" for n in range(60)], "bytes": "61"})
    long = long.assign(sample=0, topic="English text", tokens=60, words=30, text_bytes=400)
    short = pd.DataFrame({"piece": ["a", "\N{REPLACEMENT CHARACTER}"], "bytes": ["61", "e9 a5"]})
    short = short.assign(sample=1, topic="Chinese", tokens=2, words=1, text_bytes=3)
    return pd.concat([long, short]).assign(label="sentence", split="test", column="instruction")


def test_every_token_has_a_box_inside_of_the_figure(tokens, tmp_path):
    figure = token_boxes({"t": tokens}, reading="t")
    (axes,) = figure.axes
    boxes = [patch.get_bbox() for patch in axes.patches]
    assert len(boxes) == 62
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    assert max(box.x1 for box in boxes) <= right and max(box.y1 for box in boxes) <= bottom
    for first, second in itertools.pairwise(boxes):
        assert second.x0 >= first.x1 or second.y0 >= first.y1
    assert len({box.y0 for box in boxes}) > 2
    shown = texts_of(axes)
    assert {"English text", "60 tokens, 2.00 per word, 6.67 bytes per token", "e9 a5"} <= set(shown)
    assert sum(text.startswith("␣piece") for text in shown) == 60
    assert "n = 2 of 2 texts" in caption(figure)
    save(figure, tmp_path / "tokens.png", {})
    # Drawn texts lie inside of their boxes.
    renderer = figure.canvas.get_renderer()
    labels = [text for text in axes.texts if text.get_text().startswith("␣piece")]
    for text, patch in zip(labels, axes.patches, strict=False):
        drawn, box = text.get_window_extent(renderer), patch.get_window_extent(renderer)
        assert drawn.x0 >= box.x0 and drawn.x1 <= box.x1
    with pytest.raises(ValueError, match="texts = 0; valid: 1 or more"):
        token_boxes({"t": tokens}, reading="t", texts=0)


def test_tokens_per_word_are_means_over_texts(tokens):
    (axes,) = token_counts({"t": tokens}, 0, reading="t").axes
    assert [bar.get_width() for bar in axes.patches] == [2.0, 2.0]
    assert texts_of(axes) == [" 0 of 1", " 0 of 1"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["English text", "Chinese"]
    with pytest.raises(ValueError, match="no rows with label = pair; present: sentence"):
        token_counts({"t": tokens}, 0, reading="t", label="pair")
