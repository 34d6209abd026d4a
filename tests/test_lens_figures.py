"""Figures of lenses and of next tokens draw the numbers of their tables, in glyphs there are."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pipeline.measures.bands import band_over
from pipeline.views import glyphs
from pipeline.views.bars import next_token_bars
from pipeline.views.glyphs import drawable
from pipeline.views.lenses import mean_by_layer, token_map
from pipeline.views.panels import save

LAYERS, PIECES = 4, ["<bos>", " the", "\n", "猫"]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    samples = np.arange(12)
    frame = pd.DataFrame({"sample": samples, "label": np.where(samples < 6, "told", "not told")})
    return frame.assign(split="test", topic=samples // 2, relation=samples % 2)


@pytest.fixture(scope="module")
def lens(prompts) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    grid = prompts.merge(pd.DataFrame({"layer": range(LAYERS)}), how="cross")
    grid["bridge_reciprocal_rank"] = rng.random(len(grid))
    grid["answer_reciprocal_rank"] = 0.2 * grid["layer"] + 0.1 * rng.random(len(grid))
    return grid.assign(foil_reciprocal_rank=0.01, entropy=1.0)


@pytest.fixture(scope="module")
def positions() -> pd.DataFrame:
    """One sample at four positions."""
    rows = [
        {"layer": layer, "position": position, "piece": piece, "top_piece": f" {layer}{position}"}
        for position, piece in enumerate(PIECES)
        for layer in range(LAYERS)
    ]
    table = pd.DataFrame(rows).assign(sample=3, label="told", split="test", topic="t")
    table["probability"] = (table["layer"] + 1) * (table["position"] + 1) / 16
    table["bridge_rank"] = 10 ** (LAYERS - table["layer"])
    return table.sample(frac=1, random_state=0)


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_curves_are_the_means_over_clusters_with_their_bands(prompts, lens):
    figure = mean_by_layer(
        prompts,
        {"last": lens},
        "topic",
        0,
        reading="last",
        values=["bridge_reciprocal_rank", "answer_reciprocal_rank"],
        controls=["foil_reciprocal_rank", "foil_reciprocal_rank"],
    )
    for axes, label in zip(figure.axes, ("told", "not told"), strict=True):
        rows = lens[lens["label"] == label]
        assert axes.get_title(loc="left") == f"{label}\nn = 6 samples, 3 topics"
        for name, band in zip(("bridge", "answer"), axes.collections, strict=True):
            scores = rows.assign(score=rows[f"{name}_reciprocal_rank"])
            layers = sorted(rows["layer"].unique())
            expected = band_over(
                scores, "layer", layers, cluster="topic", share=False, bounded=True, seed=0
            )
            (line,) = (x for x in axes.lines if x.get_label() == f"{name}_reciprocal_rank")
            np.testing.assert_allclose(line.get_ydata(), expected.mean)
            corners = band.get_paths()[0].vertices
            np.testing.assert_allclose(corners[:, 1].max(), min(1, expected.high.max()))
            np.testing.assert_allclose(corners[:, 1].min(), max(0, expected.low.min()))
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [set(line.get_ydata()) for line in dashed] == [{0.01}, {0.01}]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "out"]
    text = caption(figure)
    assert "Test split, n = 12 samples" in text and "control of the same colour" in text
    assert figure.axes[0].get_ylabel() == "mean reciprocal rank"


def test_curves_are_told_apart_by_any_column_of_the_dataset(prompts, lens):
    figure = mean_by_layer(
        prompts, {"last": lens}, "sample", 0, reading="last", values=["entropy"], by="relation"
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["0\nn = 6 samples", "1\nn = 6 samples"]
    assert figure.axes[0].get_ylabel() == "mean entropy (nats)" and "No control." in caption(figure)


def test_readings_are_compared_and_those_of_fewer_layers_drawn_where_they_are(prompts, lens):
    """On a logarithmic axis, of texts that the dataset does not have."""
    texts = lens.assign(sample=lens["sample"] + 100, topic="text", label="text", kl=lens["layer"])
    readings = {"logit": texts, "tuned_lens": texts[texts["layer"] > 1].assign(kl=5.0)}
    options = {"reading": list(readings), "values": ["kl"], "logarithmic": True}
    figure = mean_by_layer(prompts, readings, "sample", 0, **options)
    (axes,) = figure.axes
    curves = [line for line in axes.lines if line.get_label() == "kl"]
    assert [line.get_xdata().tolist() for line in curves] == [[1, 2, 3], [2, 3]]
    assert [line.get_ydata().tolist() for line in curves] == [[1, 2, 3], [5, 5]]
    assert axes.get_yscale() == "log"
    (keys,) = figure.legends
    assert [text.get_text() for text in keys.get_texts()] == ["logit", "tuned lens"]
    assert "out: the model's output, left out where it is 0." in caption(figure)


@pytest.mark.parametrize(
    ("column", "highest"), [("bridge_reciprocal_rank", 1), ("bridge_rank", np.inf)]
)
def test_bands_stay_where_means_can_be(prompts, lens, column, highest):
    """One topic in six is unlike all others, so that mean -+ c stderr passes 1, or 0."""
    values = np.where(lens["topic"] == 0, 0.5, 1.0)
    for scores, limit in ((values, highest), (1 - values, 0)):
        table = lens.assign(**{column: scores})
        options = {"reading": "last", "values": [column], "by": "split"}
        figure = mean_by_layer(prompts, {"last": table}, "sample", 0, **options)
        (drawn,) = figure.axes[0].collections
        heights = drawn.get_paths()[0].vertices[:, 1]
        scored = table.assign(score=table[column])
        layers = sorted(table["layer"].unique())
        bounded = highest == 1
        band = band_over(
            scored, "layer", layers, cluster="sample", share=False, bounded=bounded, seed=0
        )
        assert heights.min() >= 0 and heights.max() <= highest
        if bounded:
            # Wilson's interval stays inside by itself.
            assert heights.max() == pytest.approx(band.high.max())
            assert heights.min() == pytest.approx(band.low.min())
        elif limit:
            assert heights.max() == pytest.approx(band.high.max()) and band.high.max() > 1
        else:
            assert band.low.min() < 0 == heights.min()


def test_curves_that_cannot_be_drawn_are_named(prompts, lens):
    readings = {"last": lens, "all": pd.concat([lens, lens])}

    def draw(reading="last", values=("entropy",), cluster="topic", **more):
        options = {"reading": reading, "values": list(values), **more}
        return mean_by_layer(prompts, readings, cluster, 0, **options)

    with pytest.raises(ValueError, match="no reading 'first'; valid: last, all"):
        draw("first")
    with pytest.raises(ValueError, match="reading all has several positions a sample; valid: one"):
        draw("all")
    with pytest.raises(ValueError, match=r"entropy \(nats\), reciprocal rank in one figure"):
        draw(values=["entropy", "bridge_reciprocal_rank"])
    with pytest.raises(ValueError, match="no column of numbers 'kl'; valid: sample"):
        draw(values=["kl"])
    with pytest.raises(ValueError, match="no column 'country' in the dataset"):
        draw(by="country")
    with pytest.raises(ValueError, match="no column 'country' in the dataset"):
        draw(cluster="country")
    with pytest.raises(ValueError, match="2 controls of 1 values"):
        draw(controls=["entropy", "entropy"])


def test_the_map_has_a_cell_for_every_position_and_layer(positions):
    figure = token_map({"all": positions}, reading="all", sample=3)
    axes, bar = figure.axes
    expected = np.outer(np.arange(1, 5), np.arange(1, 5)) / 16
    assert np.array_equal(axes.images[0].get_array(), expected)
    # Layer 0 is at the bottom, as the stream rises.
    assert axes.get_ylim() == (-0.5, 3.5)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(p, n): f"␣{n}{p}" for p in range(4) for n in range(LAYERS)}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1", "2", "out"]
    named = [tick.get_text() for tick in axes.get_xticklabels()]
    assert named[:3] == ["<bos>", "␣the", "⏎"] and named[3] in ("猫", "U+732B")
    assert bar.get_ylabel() == "probability of the likeliest token"
    assert "n = 1 prompt: sample 3 of the test split, told" in caption(figure)


def test_ranks_are_on_a_logarithmic_scale(positions):
    figure = token_map({"all": positions}, reading="all", sample=3, colour="bridge_rank")
    assert figure.axes[0].images[0].get_clim() == (1, 10_000)
    assert figure.axes[1].get_ylabel() == "rank of bridge" and figure.axes[1].get_yscale() == "log"
    with pytest.raises(ValueError, match="no column of numbers 'piece'; valid: layer, position"):
        token_map({"all": positions}, reading="all", sample=3, colour="piece")
    with pytest.raises(ValueError, match="no rows with sample = 4; present: 3"):
        token_map({"all": positions}, reading="all", sample=4)


def test_characters_without_a_glyph_are_codes(monkeypatch):
    monkeypatch.setattr(glyphs, "_glyphs", lambda: frozenset(map(ord, " ␣aé$…b")))
    assert drawable(" a猫é") == "␣aU+732Bé"
    assert drawable("aaaaaaaa", 4) == "aaa…"
    # Two dollar signs would enclose a formula.
    assert drawable("$a$b") == r"\$a\$b"


def test_a_chinese_font_is_used_where_there_is_one(monkeypatch):
    """STIX stands for it: it has a glyph that DejaVu lacks."""
    letter = "\N{PROPERTY LINE}"
    assert drawable(letter) == "U+214A"
    monkeypatch.setattr(glyphs, "FAMILIES", ("DejaVu Sans", "STIXGeneral", "Not Installed"))
    glyphs.families.cache_clear()
    glyphs._glyphs.cache_clear()
    try:
        assert glyphs.families() == ["DejaVu Sans", "STIXGeneral"]
        assert drawable(letter) == letter
    finally:
        monkeypatch.undo()
        glyphs.families.cache_clear()
        glyphs._glyphs.cache_clear()


def test_the_packaged_font_draws_chinese_tokens():
    pytest.importorskip("noto_cjk_sans_otc", reason="pip install 'actsweep[fonts]' is missing")
    assert drawable("饿猫") == "饿猫"
    figure = plt.figure()
    figure.text(0.5, 0.5, "饿猫", fontfamily=glyphs.families())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of a glyph that is missing
        figure.canvas.draw()


@pytest.fixture(scope="module")
def following() -> pd.DataFrame:
    """Three questions; quoted, the second one's likeliest token is another."""
    rows = []
    for topic, (plain, quoted) in {"a?": (0.9, 0.8), "b?": (0.7, 0.2), "c?": (0.6, 0.5)}.items():
        for label, p in (("plain", plain), ("quoted", quoted)):
            ranked = sorted([(p, 11, " yes"), (0.95 - p, 12, " no"), (0.01, 13, f" {label}")])[::-1]
            for rank, (probability, token, piece) in enumerate(ranked, 1):
                rows.append((label, topic, rank, token + 50 * (label == "quoted") * (token == 13)))
                rows[-1] += (piece, probability, 1 - p)
    columns = ["label", "topic", "rank", "token", "piece", "probability", "entropy"]
    return pd.DataFrame(rows, columns=columns).assign(split="test", sample=0)


def test_bars_stand_side_by_side(following):
    figure = next_token_bars({"next": following}, 0, reading="next", topics=["b?", "a?"], top=4)
    axes = figure.axes[0]
    plain, quoted = axes.containers
    np.testing.assert_allclose([bar.get_width() for bar in quoted], [0.75, 0.2, 0, 0.01])
    np.testing.assert_allclose([bar.get_width() for bar in plain], [0.25, 0.7, 0.01, 0])
    assert sorted(tick.get_text() for tick in axes.get_yticklabels()[:2]) == ["␣no", "␣yes"]
    texts = [text.get_text() for text in axes.texts]
    # Not listed for the other label: less than the last one that is.
    assert texts.count("< 0.010") == 2 and "entropy (nats): plain 0.30, quoted 0.80" in texts
    text = caption(figure)
    assert "Test split, 2 of n = 3 pairs of prompts." in text
    assert "entropy is 0.27 nats for plain and 0.50 for quoted: +0.23" in text
    assert "The likeliest token is the same in 2 of 3 pairs. Control: plain." in text


def test_prompts_without_a_pair_are_named(following):
    def draw(table):
        next_token_bars({"next": table}, 0, reading="next", topics=["b?"])

    with pytest.raises(ValueError, match=r"topic .* has several samples labelled 'plain'; valid"):
        draw(pd.concat([following, following.assign(sample=99)]))
    with pytest.raises(ValueError, match="labels of reading next: plain; valid: two"):
        draw(following[following["label"] == "plain"])
    with pytest.raises(ValueError, match=r"topic 'b\?' has not both labels; valid: plain, quoted"):
        draw(following[(following["label"] == "plain") | (following["topic"] != "b?")])


def test_figures_are_written_alike_twice(prompts, lens, positions, following, tmp_path):
    for name in "ab":
        values = ["answer_reciprocal_rank"]
        curve = mean_by_layer(prompts, {"r": lens}, "topic", 0, reading="r", values=values)
        save(curve, tmp_path / f"curve-{name}", {})
        save(token_map({"r": positions}, reading="r", sample=3), tmp_path / f"map-{name}", {})
        bars = next_token_bars({"r": following}, 0, reading="r", topics=["a?"])
        save(bars, tmp_path / f"bars-{name}", {})
    for kind in ("curve", "map", "bars"):
        first, second = (tmp_path / f"{kind}-{name}" for name in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_each_readings_control_has_a_key(prompts, lens):
    readings = {"patched": lens, "read": lens}
    options = {"values": ["bridge_reciprocal_rank"], "controls": ["foil_reciprocal_rank"]}
    figure = mean_by_layer(prompts, readings, "topic", 0, reading=list(readings), **options)
    (keys,) = figure.legends
    names = [text.get_text() for text in keys.get_texts()]
    assert names == ["patched", "control of patched: foil", "read", "control of read: foil"]
    dashed = [key.get_color() for key in keys.get_lines() if key.get_linestyle() == "--"]
    drawn = [line.get_color() for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert dashed == drawn and len(set(drawn)) == 2
    assert "intervention" not in caption(figure)


def test_more_curves_than_colours_differ_in_their_lines(prompts, lens):
    readings = {f"r{n}": lens for n in range(8)}
    options = {"reading": list(readings), "values": ["entropy"]}
    figure = mean_by_layer(prompts, readings, "topic", 0, **options)
    lines = [line for line in figure.axes[0].lines if line.get_label() == "entropy"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8
    with pytest.raises(
        ValueError, match=r"8 names in a legend \(r0, r1, r2, ...\); valid: up to 6"
    ):
        mean_by_layer(prompts, readings, "topic", 0, **options, controls=["entropy"])
