"""Attention and probes as whole studies on random weights of a Gemma-2 shape."""

import pandas as pd
import pytest
from families import LAYERS, write_model
from project import copy_project, run

TEMPLATE = "<user>{{ messages[0]['content'] }}<end>{{ '\n' }}<answer>{{ '\n' }}"
STUDIES = {
    "attention": (["stories", "repeated", "strongest", "layer", "every"], []),
    "probes": (["number"], ["fits.probe.draws=1", "fits.probe.penalties=[10.0,1000.0]"]),
    "world_map": (
        ["place", "map", "continent"],
        ["fits.place.draws=1", "fits.continent.draws=1", "fits.continent.penalties=[100.0]"],
    ),
    "parse_trees": (
        ["uuas", "trees"],
        ["fits.distances.rank=8", "fits.distances.epochs=2", "fits.distances.draws=1"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_runs_whole_on_a_gemma_2_shape(study, tmp_path):
    figures, options = STUDIES[study]
    folder = copy_project(tmp_path)
    write_model("gemma2", folder / "model", TEMPLATE)
    done = run(folder, "run", study, "model=local", "model.path=model", *options)
    assert done.returncode == 0, done.stderr
    (output,) = folder.glob(f"outputs/{study}-*")
    assert {figure.stem for figure in output.glob("figures/*.png")} == set(figures)
    for path in output.glob("readings/*.parquet"):
        table = pd.read_parquet(path)
        assert set(table["layer"]) == set(range(LAYERS)), path


@pytest.mark.parametrize(
    ("study", "option", "message"),
    [
        ("probes", "fits.probe.targets=[number]", "fits.probe: no column 'number' in the dataset"),
        ("probes", "fits.probe.folds=30", "fits.probe: folds: 30; valid: 2 to 24, the topics of"),
        ("probes", "fits.probe.component=resid_post", "fits.probe.component: 'resid_post' is not"),
        ("parse_trees", "fits.distances.rank=400", "fits.distances: rank: 400; valid: 1 to 192"),
        ("parse_trees", "fits.distances.heads=topic", "heads 'key' are not numbers"),
    ],
)
def test_what_cannot_be_fitted_is_named_before_the_model_runs(study, option, message, tmp_path):
    done = run(copy_project(tmp_path), "run", study, option, "--dry-run")
    assert done.returncode != 0 and message in done.stderr
