"""The page of findings: its commands make the runs that it shows."""

import shlex
from pathlib import Path

from pipeline.config.study import compose_study
from pipeline.runs.arguments import parse
from pipeline.runs.records import overrides_of, shortest_overrides
from pipeline.views.findings import Finding, findings_page

ROOT = Path(__file__).parents[1]


def test_a_runs_overrides_are_those_that_it_was_made_with():
    given = ["sweep.layers=[0,6]", "sweep.decoding.repeats=3", "fits.vector.controls.isotropic=3"]
    run = compose_study("lists", ["model=smollm2_135m_instruct", *given], root=ROOT)
    found = overrides_of(run, compose_study("lists", root=ROOT), "smollm2_135m_instruct")
    assert set(found) == {
        "model=smollm2_135m_instruct",
        "'sweep.layers=[0,6]'",
        "sweep.decoding.repeats=3",
        "fits.vector.controls.isotropic=3",
    }


def test_a_dataset_that_has_a_file_is_named_by_it():
    overrides = ["dataset=patchscope_landmarks", "dataset.seed=3"]
    run = compose_study("patchscopes", ["model=smollm2_135m_instruct", *overrides], root=ROOT)
    assert shortest_overrides(run, ROOT, "smollm2_135m_instruct") == [
        "model=smollm2_135m_instruct",
        *overrides,
    ]
    own = compose_study("patchscopes", ["dataset.seed=3"], root=ROOT)
    assert shortest_overrides(own, ROOT) == ["dataset.seed=3"]


def test_overrides_of_text_are_what_a_shell_and_hydra_read_back():
    """Text with commas, quotes and blanks, and text that would be read as a number."""
    values = {
        "question": 'What, and how? It\'s "so".',
        "score.metrics.refusal.phrases": [
            "I cannot",
            " no",
            "it's",
            "007",
            "yes",
            'a "b"',
            "<|im_end|>",
        ],
        "sweep.layers": "every 2",
    }
    as_is = compose_study("refusal", root=ROOT)
    run = compose_study("refusal", root=ROOT)
    run.question = values["question"]
    run.score.metrics["refusal"]["phrases"] = values["score.metrics.refusal.phrases"]
    run.sweep.layers = values["sweep.layers"]
    words = shlex.split(" ".join(overrides_of(run, as_is)))
    again = compose_study("refusal", words, root=ROOT)
    for key, value in values.items():
        assert again.value(key) == value


def test_a_mapping_that_a_run_leaves_out_is_among_its_overrides():
    overrides = ["collect.prompts=null"]
    run, as_is = (compose_study("world_map", each, root=ROOT) for each in (overrides, []))
    assert overrides_of(run, as_is) == overrides


def test_the_page_has_commands_numbers_and_figures():
    numbers = {"add": {"metric": "n", "unit": "", "goal": None, "baseline": {"mean": 2.0, "n": 5}}}
    numbers["add"]["baseline"] |= {"low": 1.0, "high": 3.0}
    finding = Finding(
        "lists", "Why?", "Because.", ["model=m", "'a=[1, 2]'"], numbers, {}, ["figures/x/f.png"]
    )
    page = findings_page("x", "m", [finding])
    assert "## lists: Why?" in page and "add (no setting chosen): n 2.00 [1.00, 3.00] wit" in page
    assert "actsweep run lists model=m 'a=[1, 2]'" in page
    assert "\n\nBecause.\n\n" in page
    assert "![Why?](figures/x/f.png)" in page and "On the embedded model" not in page
    assert parse(["run", "lists", "model=m", "a=[1,2]"]).overrides == ["model=m", "a=[1,2]"]


def test_nodes_that_a_run_leaves_out_are_left_out_again():
    left_out = ["~sweep.arms.everywhere", "~figures.everywhere", "~figures.damage"]
    run = compose_study("truthfulness", ["text=null", *left_out], root=ROOT)
    assert overrides_of(run, compose_study("truthfulness", root=ROOT)) == ["text=null", *left_out]
    assert compose_study("truthfulness", shortest_overrides(run, ROOT), root=ROOT).id == run.id
