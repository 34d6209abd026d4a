import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.runs.scratch import scratch, sha256, whole_file
from pipeline.store.index import Fingerprint
from pipeline.store.store import ActivationStore
from pipeline.store.writer import StoreWriter

SITES = ("blocks.2.resid_post", "blocks.10.z")
WIDTHS = {"blocks.2.resid_post": 8, "blocks.10.z": 12}
# Length-sorted batches: samples do not come in order, and shards differ in size.
PLAN = [[4, 0], [1, 5, 2], [3]]
FINGERPRINT = Fingerprint("m1", "main", "t1", "c1", "d1", SITES, "all")


def planted(shard, dtype=torch.float32):
    """A shard in which every number is known from its site, sample, position and column."""
    pairs = [(sample, position) for sample in PLAN[shard] for position in range(sample + 1)]
    rows = pd.DataFrame(pairs, columns=["sample", "position"])
    rows["token"] = 7 * rows["sample"] + rows["position"]
    base = torch.tensor(rows["token"].to_numpy()).double()[:, None]
    tensors = {
        site: torch.sin(base * (1 + number) + torch.arange(WIDTHS[site]) / 3).to(dtype)
        for number, site in enumerate(SITES)
    }
    return tensors, rows


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted():
    raise KeyboardInterrupt


def collect(
    folder, dtype=torch.float32, stop_before=None, stop=interrupted, fingerprint=FINGERPRINT
):
    """Writes the missing shards and returns their numbers; stopped before one, if asked."""
    with StoreWriter(folder, fingerprint, PLAN, required_bytes=1) as writer:
        missing = writer.missing()
        for shard in missing:
            if shard == stop_before:
                writer._settle(0)
                stop()
            tensors, rows = planted(shard, dtype)
            writer.write(shard, tensors, rows)
    return missing


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def in_subprocess(code, *arguments):
    """Runs `code` with this file's names."""
    preamble = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", preamble + "from test_store import *\n" + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def unbroken(tmp_path):
    collect(tmp_path / "unbroken")
    return tmp_path / "unbroken"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_come_back_bit_for_bit(tmp_path, dtype):
    collect(tmp_path / "s", dtype)
    store = ActivationStore(tmp_path / "s", FINGERPRINT)
    expected_rows = pd.concat([planted(shard)[1] for shard in range(3)], ignore_index=True)
    pd.testing.assert_frame_equal(store.rows, expected_rows)
    assert len(store) == len(expected_rows) and store.sites == SITES
    for site in SITES:
        whole = torch.cat([planted(shard, dtype)[0][site] for shard in range(3)])
        assert (store[site].shape, store[site].dtype) == (tuple(whole.shape), dtype)
        blocks = list(store[site])
        assert [(s.start, s.stop) for s, _ in blocks] == [(0, 6), (6, 17), (17, 21)]
        assert torch.equal(bits(torch.cat([block for _, block in blocks])), bits(whole))
        numbers = np.array([20, 0, 6, 6, 5, 17])
        assert torch.equal(bits(store[site][numbers]), bits(whole[numbers]))
        last = store.rows["position"] == store.rows["sample"]
        assert torch.equal(bits(store[site][last]), bits(whole[last.tolist()]))
    assert store[SITES[0]][np.array([], dtype=int)].shape == (0, 8)
    store.verify()


def test_only_the_shards_that_hold_the_rows_are_opened(unbroken):
    store = ActivationStore(unbroken)
    (unbroken / "shard-00001.safetensors").unlink()
    assert store[SITES[0]][np.array([0, 18])].shape == (2, 8)
    with pytest.raises(ValueError, match=r"shard-00001\.safetensors is missing; delete "):
        store[SITES[0]][np.array([6])]


def test_a_shard_opens_with_safetensors_alone(unbroken):
    loaded = load_file(unbroken / "shard-00001.safetensors")
    tensors, _ = planted(1)
    assert set(loaded) == set(SITES)
    assert all(torch.equal(loaded[site], tensors[site]) for site in SITES)


def test_the_folder_holds_nothing_but_the_store(unbroken):
    names = {f"shard-0000{shard}.safetensors" for shard in range(3)}
    assert set(contents(unbroken)) == names | {"rows.parquet", "index.json"}


@pytest.mark.parametrize("stop_before", [0, 2])
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path, unbroken, stop_before):
    folder = tmp_path / "killed"
    ended = in_subprocess(
        f"collect(Path(sys.argv[1]), stop_before={stop_before}, stop=killed)", str(folder)
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with pytest.raises(FileNotFoundError, match=r"not a finished.*index\.json"):
        ActivationStore(folder)
    # As if the kill had come in the middle of writing the next shard.
    (folder / f".shard-0000{stop_before}.safetensors.partial").write_bytes(b"half")
    (folder / f"shard-0000{stop_before}.safetensors").write_bytes(b"whole, but without its record")
    assert collect(folder) == list(range(stop_before, 3))
    assert contents(folder) == contents(unbroken)


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)


def test_a_damaged_shard_of_an_unfinished_store_is_collected_again(tmp_path, unbroken, caplog):
    folder = tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        collect(folder, stop_before=2)
    flip(folder / "shard-00001.safetensors")
    with caplog.at_level(logging.WARNING):
        assert collect(folder) == [1, 2]
    assert "shard-00001.safetensors is damaged" in caplog.text
    assert contents(folder) == contents(unbroken)


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "rows.parquet"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_finished_store_is_mended_in_place(tmp_path, unbroken, name, damage):
    folder = shutil.copytree(unbroken, tmp_path / "s")
    assert collect(folder) == [] and contents(folder) == contents(unbroken)
    damage(folder / name)
    assert collect(folder) == ([1] if name.startswith("shard") else [0, 1, 2])
    assert contents(folder) == contents(unbroken)


def test_a_finished_store_that_is_being_mended_does_not_open(unbroken):
    sound = contents(unbroken)
    flip(unbroken / "shard-00001.safetensors")
    with pytest.raises(KeyboardInterrupt):
        collect(unbroken, stop_before=1)
    with pytest.raises(FileNotFoundError):
        ActivationStore(unbroken)
    assert collect(unbroken) == [1] and contents(unbroken) == sound


def test_verify_names_what_is_damaged(unbroken):
    store = ActivationStore(unbroken)
    flip(unbroken / "shard-00002.safetensors")
    flip(unbroken / "rows.parquet")
    with pytest.raises(ValueError, match=r"damaged: shard-00002\.safetensors, rows\.parquet"):
        store.verify()


def test_damage_is_found_when_a_shard_is_first_read(unbroken, monkeypatch):
    """Whenever it happened, and by one reading of the file per opened store."""
    store = ActivationStore(unbroken)
    read = []
    monkeypatch.setattr(
        "pipeline.store.store.sha256", lambda path: read.append(path.name) or sha256(path)
    )
    numbers = np.array([0, 6])
    for _ in range(2):
        assert len(store[SITES[0]][numbers]) == len(store[SITES[1]][numbers]) == 2
    assert read == ["shard-00000.safetensors", "shard-00001.safetensors"]
    flip(unbroken / "shard-00002.safetensors")
    with pytest.raises(ValueError, match=r"shard-00002\.safetensors is damaged: .*; delete "):
        list(store[SITES[0]])
    flip(unbroken / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet is damaged"):
        store.rows  # noqa: B018


def changed(folder, *keys, to=None, drop=False):
    """Edits the index: sets the value at the path of keys, or deletes it."""
    record = json.loads((folder / "index.json").read_text())
    at = record
    for key in keys[:-1]:
        at = at[key]
    if drop:
        del at[keys[-1]]
    else:
        at[keys[-1]] = to
    (folder / "index.json").write_text(json.dumps(record))


def cut(folder):
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


SITE_OF_INDEX = ("sites", SITES[0])
DAMAGE = {
    "a cut shard": (cut, r"shard-00000\.safetensors is damaged: it has \d+ bytes, not \d+;"),
    "no shard": (
        lambda f: (f / "shard-00001.safetensors").unlink(),
        r"shard-00001\.safetensors is missing;",
    ),
    "no rows": (lambda f: (f / "rows.parquet").unlink(), r"rows\.parquet is missing;"),
    "flipped rows": (lambda f: flip(f / "rows.parquet"), r"rows\.parquet is damaged: its checksum"),
    "no JSON": (
        lambda f: (f / "index.json").write_text("{"),
        r"index\.json is damaged: it is no J",
    ),
    "no text": (
        lambda f: (f / "index.json").write_bytes(b"\xff"),
        r"index\.json is damaged: it is",
    ),
    "a list": (
        lambda f: (f / "index.json").write_text("[]"),
        r"index\.json is damaged: \[\] is no",
    ),
    "nothing": (lambda f: (f / "index.json").write_text("{}"), "it lacks 'format';"),
    "a key": (lambda f: changed(f, "shards", 0, "sha256", drop=True), "it lacks 'sha256';"),
    "a site": (lambda f: changed(f, *SITE_OF_INDEX, drop=True), "lacks 'blocks.2.resid_post';"),
    "format": (lambda f: changed(f, "format", to=99), "it is of format 99, not 1;"),
    "rows": (lambda f: changed(f, "rows", to=3), r"index\.json is damaged: "),
    "fingerprint": (lambda f: changed(f, "fingerprint", "model", to=3), "damaged: 3 is no str;"),
    "dtype": (lambda f: changed(f, *SITE_OF_INDEX, "dtype", to="real"), "unknown dtype 'real';"),
    "shards": (lambda f: changed(f, "shards", to=[]), "it lists no shards;"),
    "shape": (
        lambda f: changed(f, *SITE_OF_INDEX, "shape", to=[20, 8]),
        "blocks.2.resid_post has 20 rows, the shards together have 21;",
    ),
    "a shard's rows": (
        lambda f: changed(f, "shards", 0, "rows", to=7),
        "has 21 rows, the shards together have 22;",
    ),
    "every row count": (
        lambda f: [
            changed(f, "shards", 0, "rows", to=7),
            *(changed(f, "sites", site, "shape", to=[22, WIDTHS[site]]) for site in SITES),
        ],
        r"(rows\.parquet is not as its index says: it has 21 rows, index\.json 22;"
        r"|shard-00000\.safetensors is not as its index says: .* is \(6, 8\) .* \(7, 8\) )",
    ),
    "width": (
        lambda f: changed(f, *SITE_OF_INDEX, "shape", to=[21, 9]),
        r"shard-00000\.safetensors is not as its index says: .*\(6, 8\) .* \(6, 9\)",
    ),
}


@pytest.mark.parametrize("first", ["rows", "activations"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_file_and_how_to_mend_it(unbroken, damage, first):
    spoil, message = DAMAGE[damage]
    spoil(unbroken)

    def read():
        store = ActivationStore(unbroken)
        parts = [lambda: store.rows, lambda: list(store[SITES[0]])]
        for part in parts if first == "rows" else parts[::-1]:
            part()

    with pytest.raises(ValueError, match=message) as caught:
        read()
    assert str(caught.value).startswith(str(unbroken))
    assert str(caught.value).endswith(f"; delete {unbroken} and run the study again")


def test_an_unfinished_store_says_how_to_go_on(unbroken):
    (unbroken / "index.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no index\.json; delete it and run the study agai"
    ):
        ActivationStore(unbroken)


def test_a_damaged_record_of_an_unfinished_store_is_written_again(tmp_path, unbroken, caplog):
    for text in ("{", "{}", "[]"):
        folder = tmp_path / f"s{len(text)}{text[0] == '['}"
        with pytest.raises(KeyboardInterrupt):
            collect(folder, stop_before=2)
        (folder / "shard-00001.json").write_text(text)
        with caplog.at_level(logging.WARNING):
            assert collect(folder) == [1, 2]
        assert "shard-00001.safetensors is damaged" in caplog.text
        assert contents(folder) == contents(unbroken)


def test_a_mismatch_names_both_sides_of_every_field(unbroken):
    other = replace(FINGERPRINT, model="m2", positions="last")
    with pytest.raises(ValueError) as caught:
        ActivationStore(unbroken, other)
    assert "model is 'm1' there, 'm2' here; positions is 'all' there, 'last' here" in str(
        caught.value
    )
    assert "dataset" not in str(caught.value)
    assert str(caught.value).endswith("; delete it and run the study again")
    with pytest.raises(ValueError, match="model is 'm1' there, 'm2' here"):
        collect(unbroken, fingerprint=other)
    assert other.digest != FINGERPRINT.digest == replace(other, model="m1", positions="all").digest


def test_shards_of_another_plan_are_not_mixed(tmp_path, unbroken):
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        collect(begun, stop_before=1)
    for folder in (begun, unbroken):
        with pytest.raises(ValueError, match="another split"):
            StoreWriter(folder, FINGERPRINT, [[0, 1, 2], [3], [4, 5]], required_bytes=1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([0, 21]), r"row 21: .* rows 0 to 20"),
        (np.array([-1]), "row -1"),
        (np.array([True, False]), r"mask of shape \(2,\): .* 21 rows"),
        (np.array([0.5]), "float64"),
    ],
)
def test_rows_outside_the_store_are_refused(unbroken, rows, message):
    with pytest.raises(ValueError, match=message):
        ActivationStore(unbroken)[SITES[0]][rows]


def test_an_unknown_site_is_refused(unbroken):
    with pytest.raises(ValueError, match=r"'blocks\.3\.z' is not in .*: blocks\.2\.resid_post, "):
        ActivationStore(unbroken)["blocks.3.z"]


def test_what_does_not_fit_the_plan_is_refused(tmp_path):
    tensors, rows = planted(0)
    site = SITES[0]
    wrong = [
        (1, tensors, rows, r"samples \[0, 4\] are not planned for shard 1"),
        (9, tensors, rows, "shard 9 is not missing"),
        (0, {site: tensors[site]}, rows, "not those of the fingerprint"),
        (0, {s: t[:-1] for s, t in tensors.items()}, rows, "for 6 rows"),
        (0, tensors, rows.drop(columns="token"), "columns"),
    ]
    for shard, given, table, message in wrong:
        with (
            pytest.raises(ValueError, match=message),
            StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=1) as writer,
        ):
            writer.write(shard, given, table)
    with (
        pytest.raises(ValueError, match=r"shard 1 has .*bfloat16.* before it .*float32"),
        StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=1) as writer,
    ):
        writer.write(0, tensors, rows)
        writer.write(1, *planted(1, torch.bfloat16))
    with (
        pytest.raises(ValueError, match=r"shards \[\d.*2\] were not written"),
        StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=1),
    ):
        pass
    assert not (tmp_path / "index.json").exists()
    with pytest.raises(ValueError, match="no shard"):
        StoreWriter(tmp_path / "empty", FINGERPRINT, [], required_bytes=1)


def test_the_caller_may_reuse_and_share_its_tensors(tmp_path):
    buffer = torch.arange(48.0).reshape(6, 8)
    fingerprint = replace(FINGERPRINT, sites=("blocks.0.resid_post", "blocks.1.resid_pre"))
    with StoreWriter(tmp_path, fingerprint, [[4, 0]], required_bytes=1) as writer:
        writer.write(0, dict.fromkeys(fingerprint.sites, buffer), planted(0)[1])
        buffer.zero_()
    store = ActivationStore(tmp_path)
    for site in store.sites:
        assert torch.equal(next(iter(store[site]))[1], torch.arange(48.0).reshape(6, 8))


def test_a_failure_in_the_background_surfaces_and_nothing_more_is_written(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("planted failure")

    monkeypatch.setattr("pipeline.store.writer.save_file", fail)
    begun = []
    with (
        pytest.raises(OSError, match="planted failure"),
        StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=1) as writer,
    ):
        for shard in range(3):
            writer.write(shard, *planted(shard))
            begun.append(shard)
    # At most two are under way before the third write meets the error of the first.
    assert len(begun) <= 2 and contents(tmp_path) == {}
    with (
        pytest.raises(OSError, match="planted failure"),
        StoreWriter(tmp_path, FINGERPRINT, PLAN[:1], required_bytes=1) as writer,
    ):
        writer.write(0, *planted(0))


def test_a_full_disk_is_refused_before_the_first_shard(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(total=10**10, used=0, free=2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 3\.00 GB, 2\.00 GB is free"):
        StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=3 * 10**9)
    StoreWriter(tmp_path, FINGERPRINT, PLAN, required_bytes=2 * 10**9)


def test_at_most_two_shards_are_under_way(tmp_path, monkeypatch):
    finished = []

    def slow(tensors, path, metadata):
        time.sleep(0.02)
        path.touch()
        finished.append(path)

    monkeypatch.setattr("pipeline.store.writer.save_file", slow)
    under_way = []
    with StoreWriter(tmp_path, FINGERPRINT, [PLAN[0]] * 6, required_bytes=1) as writer:
        for shard in range(6):
            writer.write(shard, *planted(0))
            under_way.append(shard + 1 - len(finished))
    assert max(under_way) == 2


MEMORY = """
def resident(kind):
    for line in open("/proc/self/status"):
        if line.startswith(kind):
            return int(line.split()[1]) / 1024

folder, shards, width = Path(sys.argv[1]), int(sys.argv[2]), 1024
rows = int(sys.argv[3]) * 2**20 // shards // width // 4
table = pd.DataFrame({"sample": 0, "position": np.arange(rows), "token": 0})
fingerprint = replace(FINGERPRINT, sites=("embed",))
start, writing = resident("RssAnon"), []
with StoreWriter(folder, fingerprint, [[0]] * shards, required_bytes=1) as writer:
    for shard in writer.missing():
        writer.write(shard, {"embed": torch.full((rows, width), float(shard))}, table)
        writing.append(resident("RssAnon") - start)

store = ActivationStore(folder)
list(store["embed"][np.array([0])])
anonymous, mapped, sums = [], [], []
start = resident("RssAnon"), resident("RssFile")
for _, block in store["embed"]:
    sums.append(block.sum().item() / block.numel())
    anonymous.append(resident("RssAnon") - start[0])
    mapped.append(resident("RssFile") - start[1])
print(json.dumps([sums, max(writing), max(anonymous), max(mapped)]))
"""


def test_memory_is_that_of_a_few_shards(tmp_path):
    shards, megabytes = 10, 320
    ended = in_subprocess(MEMORY, str(tmp_path), str(shards), str(megabytes))
    assert ended.returncode == 0, ended.stderr
    sums, writing, anonymous, mapped = json.loads(ended.stdout)
    shard = megabytes / shards
    assert sums == list(range(shards))
    assert writing < 5 * shard
    # A pass copies nothing, and maps no more than two shards at a time.
    assert anonymous < shard / 2
    assert shard / 2 < mapped < 2.5 * shard


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert contents(tmp_path) == {"f.txt": b"old"}
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"f.txt": b"new"}


def test_scratch_survives_a_failure_and_becomes_the_output(tmp_path):
    declared = tmp_path / "outputs" / "refusal" / "activations"
    declared.mkdir(parents=True)
    (declared / "stale").touch()
    with pytest.raises(RuntimeError), scratch(declared, "k1", root=tmp_path) as folder:
        (folder / "activations").mkdir()
        (folder / "activations" / "a").write_text("first")
        raise RuntimeError
    assert (declared / "stale").exists()
    with scratch(declared, "k2", root=tmp_path) as other:
        assert list(other.iterdir()) == []
        (other / "activations").mkdir()
    with scratch(declared, "k1", root=tmp_path) as folder:
        assert (folder / "activations" / "a").read_text() == "first"
        (folder / "chunk-0").touch()
    assert contents(declared) == {"a": b"first"}
    assert not folder.exists()


def test_scratch_gives_a_file_and_refuses_to_give_nothing(tmp_path):
    declared = tmp_path / "outputs" / "sweep.parquet"
    for text in ("one", "two"):
        with scratch(declared, "k", root=tmp_path) as folder:
            (folder / "sweep.parquet").write_text(text)
        assert declared.read_text() == text
    with (
        pytest.raises(FileNotFoundError, match=r"left no sweep\.parquet"),
        scratch(declared, "k", root=tmp_path),
    ):
        pass
    assert declared.read_text() == "two"
