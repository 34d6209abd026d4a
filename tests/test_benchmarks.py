"""The whole benchmark at its smallest: every side gives our output; no time is looked at."""

import json
import mmap
import subprocess
import time

import pytest
import torch

from benchmarks import memory, profiling, report, run
from benchmarks.aims import AIMS, missed
from benchmarks.arithmetic import Need, Rates, decoding_need
from benchmarks.machine import commit
from benchmarks.profiling import shares
from benchmarks.shapes import SIZES, random_model
from benchmarks.work import Work, alike, near
from benchmarks.works import WORKS


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "results.json"
    run.main(["--size", "tiny", "--rounds", "1", "--no-memory", "--results", str(path)])
    return path


@pytest.mark.slow
def test_every_work_is_measured_with_its_ceiling(results):
    found = json.loads(results.read_text())
    assert list(found) == list(WORKS)
    for work in found.values():
        assert next(iter(work["seconds"])) == "actsweep"
        assert work["ratios"].keys() == work["seconds"].keys() - {"actsweep"}
        assert work["ceiling"]["share_reached"] > 0


@pytest.mark.slow
def test_a_library_is_measured_or_said_to_be_missing(results):
    found = json.loads(results.read_text())["forward_all"]
    told = [*found["ratios"], *(text.partition(":")[0] for text in found["not_measured"])]
    libraries = {"steering-vectors", "TransformerLens", "nnsight", "pyvene"}
    assert libraries <= set(told)


@pytest.mark.slow
def test_the_figure_and_the_table_show_what_was_measured(results, tmp_path):
    readme, figure = tmp_path / "README.md", tmp_path / "benchmark.png"
    readme.write_text(f"above\n{report.BEGIN}stale\n{report.END}below\n")
    report.main(["--results", str(results), "--figure", str(figure), "--readme", str(readme)])
    assert figure.stat().st_size > 10_000
    text = readme.read_text()
    assert "stale" not in text
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    for name in WORKS:
        assert f"| {name} | actsweep |" in text


@pytest.mark.slow
def test_aims_are_those_of_sides_that_there_are(results):
    found = json.loads(results.read_text())
    assert AIMS.keys() == WORKS.keys()
    for name, aims in AIMS.items():
        missing = {text.partition(":")[0] for text in found[name]["not_measured"]}
        assert aims.keys() <= found[name]["ratios"].keys() | missing


def test_what_misses_its_aim_is_told_with_where_the_time_goes():
    ratios = {"sparsify": {"median": 1.25, "min": 1.0, "max": 1.5}, "sae_lens": {"median": 1.5}}
    found = {
        "ratios": ratios,
        "seconds": {"actsweep": {"median": 7.0}},
        "ceiling": {"seconds": 2.5},
        "profile": {"aten::mm": 0.4, "outside of torch's operations": 0.1},
    }
    assert missed("autoencoder", found) == {"sparsify": (1.25, 1.5)}
    told = report.below({"autoencoder": found})
    assert "autoencoder, sparsify: 1.25 of 1.5. Ours takes 7 s, at the ceiling 2.5 s; " in told
    assert "40% aten::mm, 10% outside" in told
    found["ratios"] = {"sparsify": {"median": 1.6}}
    assert report.below({"autoencoder": found}) == ""


def test_a_profile_is_of_all_the_seconds():
    matrix, turns = torch.randn(400, 400), []

    def run():
        turns.append("run")
        return [matrix @ matrix for _ in range(20)]

    found = shares(run, lambda: turns.append("prepare"))
    assert turns == ["run", "prepare", "run"]
    assert sum(found.values()) == pytest.approx(1, abs=0.05)
    assert found["aten::mm"] > 0.1


def test_profiles_are_added_to_works_that_miss_their_aims_only(tmp_path):
    path, seconds = tmp_path / "results.json", {"actsweep": {"median": 1.0}}
    results = {
        name: {"size": "tiny", "seconds": seconds, "ratios": {side: {"median": ratio}}}
        for name, side, ratio in (
            ("no_condition", "transformers' generate", 0.5),
            ("generation_few_all", "steering-vectors", 9.0),
        )
    }
    path.write_text(json.dumps(results))
    profiling.main(["--results", str(path)])
    found = json.loads(path.read_text())
    assert "aten::mm" in found["no_condition"]["profile"]
    assert "profile" not in found["generation_few_all"]


def test_the_readme_has_a_row_for_every_work_and_place_for_the_table():
    text = report.README.read_text()
    assert report.with_table(text, "") != ""
    for name in WORKS:
        assert f"`{name}`" in text


def test_a_work_that_the_machine_cannot_do_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = run.measured("generation_gpu", "full", 1, with_memory=False)
    assert found["not_measured"] == ["needs a CUDA GPU with 40 GB of free memory: none here"]


def work(**others) -> Work:
    def equal(side, expected, found):
        if found != expected:
            raise ValueError(f"{side}: {found} instead of {expected}")

    sides = {"actsweep": lambda: 1, **others}
    return Work("a number", sides, equal, lambda _: Need(flop=1, bytes=1))


def test_a_library_that_fails_is_said_to_be_missing_and_the_others_are_measured():
    def fails():
        raise RuntimeError("no such\nkernel")

    found = run.measure(work(broken=fails, other=lambda: 1), rounds=2)
    assert found["ratios"].keys() == {"other"}
    assert found["not_measured"] == ["broken: RuntimeError: no such kernel"]


def test_every_other_round_goes_backwards():
    ran = []
    others = {name: lambda name=name: ran.append(name) or 1 for name in "abc"}
    run.measure(work(**others), rounds=3)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"


def test_other_outputs_fail_the_benchmark_and_leave_no_figures(monkeypatch, tmp_path):
    wrong = {"wrong": lambda *_: work(wrong=lambda: 2), "right": lambda *_: work(same=lambda: 1)}
    monkeypatch.setattr(run, "WORKS", wrong)
    path = tmp_path / "results.json"
    with pytest.raises(SystemExit, match="wrong: wrong: 2 instead of 1"):
        run.main(["--size", "tiny", "--rounds", "1", "--no-memory", "--results", str(path)])
    results = json.loads(path.read_text())
    assert results["wrong"]["not_measured"] == ["wrong: 2 instead of 1"]
    assert "ratios" not in results["wrong"]
    assert results["right"]["ratios"].keys() == {"same"}
    assert all(len(found["commit"]) >= 40 for found in results.values())


def test_a_measurement_says_whether_code_differs_from_its_commit(tmp_path):
    def git(*told):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *told], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    for name in ("results.json", "deep/code.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "Add two files")
    measured = commit(tmp_path)
    assert len(measured) == 40
    (tmp_path / "results.json").write_text("2")
    assert commit(tmp_path) == measured
    (tmp_path / "deep/code.py").write_text("2")
    assert commit(tmp_path) == f"{measured}-dirty"


def test_other_outputs_are_told():
    logits = random_model(SIZES["tiny"].model).hf.lm_head.weight
    with pytest.raises(ValueError, match="mine: an output differs by"):
        near("mine", logits, logits + 0.01)
    with pytest.raises(ValueError, match="mine: 1 of 200 completions differ"):
        alike("mine", [[1, 2]] * 200, [[1, 2]] * 199 + [[1, 3]])


def test_the_least_time_is_that_of_operations_or_of_bytes():
    assert Need(flop=6, bytes=1).seconds(Rates(2, 1)) == 3
    assert Need(flop=6, bytes=4).seconds(Rates(2, 1)) == 4


def test_decoding_reads_the_weights_at_each_step_and_what_is_cached():
    model = random_model(SIZES["tiny"].model)
    blocks = sum(weight.numel() for weight in model.blocks.parameters())
    head = model.hf.lm_head.weight.numel()
    need = decoding_need(model, prefilled=10, rows=2, prompt=5, new=3)
    assert need.flop == 2 * (blocks * (10 + 2 * 2) + head * 6)
    cached = 2 * 4 * 8 * model.n_layers * 4
    assert need.bytes == (blocks + head) * 3 * 4 + 2 * (5 + 6) * cached


def test_memory_is_sampled_while_a_side_runs():
    def hold():
        # Mapped anew: what a long-lived process has freed would be taken again.
        held = mmap.mmap(-1, 2**26, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, 2**26, mmap.PAGESIZE):
            held[page] = 1
        time.sleep(20 * memory.SECONDS)

    anonymous = memory.watched(hold)["anonymous"]
    assert anonymous["peak"] - anonymous["before"] > 2**25
