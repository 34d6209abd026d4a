"""The engine against the naive loop and transformers' own generate."""

import dataclasses
import math
from contextlib import nullcontext
from functools import partial

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, VOCAB, WIDTH, random_prompts, tiny
from transformers import TopPLogitsWarper

from pipeline.engine import chunks, generation, scorer
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PromptPositions, position_mask
from pipeline.engine.decoding import Decoding, choose, gumbel, least_kept, row_keys
from pipeline.engine.generation import generate, generate_chunk
from pipeline.engine.limits import check_listed
from pipeline.engine.scoring import cross_entropy, score_change, score_last
from pipeline.methods.interventions import Add, ProjectOut, Replace, Subtract
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

STEPS = 6
FIRST = torch.tensor([0])
PROMPTS = random_prompts(7)


def vector(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def condition(intervention, rule, components=("resid_pre",), layers=(1,)) -> Condition:
    edits = [Edit(Site(layer, c), intervention, rule) for layer in layers for c in components]
    axes = {"intervention": type(intervention).__name__, "positions": str(rule), "layer": layers[0]}
    return Condition(axes, tuple(edits))


INTERVENTIONS = [
    Add(vector(1), 2.0),
    Subtract(vector(2), 1.5),
    ProjectOut(vector(3)),
    Replace(vector(4)),
]
POSITION_RULES = [
    "all",
    "after_first",
    "last",
    "generated",
    (0, -2),
    # As many positions as there are in this prompt and no other, the last in the completion.
    PromptPositions("own", [tuple(range(n % 3, len(p) + n % 2, 2)) for n, p in enumerate(PROMPTS)]),
]
GRID = [condition(i, rule) for i in INTERVENTIONS for rule in POSITION_RULES]


@dataclasses.dataclass(frozen=True)
class Failing:
    def edit(self, hidden):
        raise RuntimeError("in the middle of a pass")


def assert_as_naive(model, conditions, **settings):
    done = generate(model, PROMPTS, conditions, Decoding(STEPS), **settings)
    assert len(done) == len(conditions) * len(PROMPTS)
    naive.assert_same(
        [
            (
                (conditions[c.condition], c.prompt),
                c.tokens,
                *naive.generate(model, PROMPTS[c.prompt], conditions[c.condition], STEPS, c.prompt),
            )
            for c in done
        ]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_without_edits_it_is_transformers_generate(family):
    model = tiny(family)
    rows = []
    for completion in generate(model, PROMPTS, [Condition()], Decoding(STEPS)):
        prompt = torch.tensor([PROMPTS[completion.prompt]])
        out = model.hf.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=STEPS,
            do_sample=False,
            pad_token_id=0,
        )[0, prompt.shape[1] :]
        expected = [t for t in out.tolist() if t != 3]
        _, logits = naive.generate(model, PROMPTS[completion.prompt], Condition(), STEPS)
        rows.append((completion.prompt, completion.tokens, expected, logits))
    naive.assert_same(rows)


@pytest.mark.parametrize(
    "family",
    [f if f in ("llama", "gemma2") else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_every_edit_and_rule_packed_together_is_the_naive_loop(family):
    """With a cache, padded, and among other conditions, against none of these."""
    assert_as_naive(tiny(family), [Condition(), *GRID], batch_tokens=1500)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_sites_at_once_are_the_naive_loop(family):
    everywhere = condition(ProjectOut(vector(5)), "all", ("resid_pre", "resid_post"), range(LAYERS))
    mixed = condition(Add(vector(6)), "all", ("resid_post", "resid_pre"), (2, 0))
    assert_as_naive(tiny(family), [everywhere, mixed])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_branch_sites_are_the_naive_loop(family):
    assert_as_naive(
        tiny(family),
        [condition(ProjectOut(vector(7)), "all", ("attn_out", "mlp_out"), range(LAYERS))],
    )


def test_edits_change_the_outcome():
    """The comparisons above would hold for edits that do nothing, were it not for this."""
    model = tiny("llama")
    done = generate(model, PROMPTS, [Condition(), *GRID], Decoding(STEPS))
    tokens = {(c.condition, c.prompt): c.tokens for c in done}
    for number in range(1, len(GRID) + 1):
        assert any(tokens[number, p] != tokens[0, p] for p in range(len(PROMPTS)))


@pytest.mark.parametrize("batch_tokens", [1, 60, 333, 10**6])
def test_packing_does_not_change_greedy_or_sampled_tokens(batch_tokens):
    model = tiny("llama")
    conditions = [Condition(), *GRID[:4]]
    for decoding in (Decoding(STEPS), Decoding(STEPS, temperature=0.8, top_p=0.9, repeats=3)):
        reference = generate(model, PROMPTS, conditions, decoding, seed=5)
        assert (
            generate(model, PROMPTS, conditions, decoding, seed=5, batch_tokens=batch_tokens)
            == reference
        )


@pytest.mark.parametrize("kind", [Add, Subtract, ProjectOut])
def test_strength_zero_is_the_baseline_token_for_token(kind):
    model = tiny("llama")
    decoding = Decoding(STEPS, temperature=1.0, repeats=2)
    done = generate(model, PROMPTS, [Condition(), condition(kind(vector(1), 0.0), "all")], decoding)
    baseline = [c.tokens for c in done if c.condition == 0]
    assert [c.tokens for c in done if c.condition == 1] == baseline


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_bit_equal_afterwards(family):
    model = tiny(family)
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    ids, mask = model.pad(PROMPTS)
    logits = model.hf(ids, attention_mask=mask).logits
    generate(model, PROMPTS, GRID[:3], Decoding(2))
    with pytest.raises(RuntimeError, match="in the middle of a pass"):
        generate(model, PROMPTS, [condition(Failing(), "all")], Decoding(2))
    after = model.hf.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model.hf(ids, attention_mask=mask).logits, logits)


def test_generated_tokens_that_no_pass_is_fed_are_refused_before_the_model_runs(monkeypatch):
    model, edited = tiny("llama"), condition(Add(vector(1)), "generated")
    monkeypatch.setattr(model.hf, "forward", None)
    refused = pytest.raises(ValueError, match="no sequence has positions 'generated'")
    with refused:
        generate(model, PROMPTS, [edited], Decoding(1))
    with refused:
        score_last(model, PROMPTS, [edited], lambda x: x, batch_tokens=100)


def test_tokens_after_the_first_are_looked_for_before_the_model_runs(monkeypatch):
    model, edited = tiny("llama"), condition(Add(vector(1)), "after_first")
    generate(model, [[5], [6]], [edited], Decoding(2))
    score_last(model, [[5], [6, 7]], [edited], lambda x: x, batch_tokens=1)
    run = partial(
        score_change,
        model,
        [[5], [6, 7]],
        [edited],
        lambda read: read.logits() - read.clean(),
        batch_tokens=100,
    )
    assert not run(only=[0]).any() and run(only=[1]).all()
    apart, together = (
        generate(model, [[5], [6, 7]], [edited], Decoding(1), batch_tokens=n) for n in (2, 100)
    )
    assert apart == together
    monkeypatch.setattr(model.hf, "forward", None)
    refused = pytest.raises(ValueError, match="no sequence has positions 'after_first'")
    with refused:
        generate(model, [[5], [6]], [edited], Decoding(1))
    with refused:
        score_last(model, [[5], [6]], [edited], lambda x: x, batch_tokens=100)


@pytest.mark.parametrize("rule", ["all", "last"])
def test_an_edit_whose_site_is_never_visited_is_an_error(rule, monkeypatch):
    model, edited = tiny("llama"), condition(Add(vector(1)), rule)
    for module in (generation, scorer):
        monkeypatch.setattr(module, "with_hooks", lambda model, hooks: nullcontext())
    silent = pytest.raises(ValueError, match=f"never fired: no token is at positions '{rule}'")
    with silent:
        generate(model, PROMPTS, [edited], Decoding(2))
    with silent:
        score_last(model, PROMPTS, [edited], lambda x: x, batch_tokens=100)


def test_unknown_rules_are_refused_where_activations_are_collected():
    model = tiny("llama")
    with pytest.raises(ValueError, match="position rule 'lasst' is unknown; valid: all, after_fi"):
        collect(model, PROMPTS, [Site(1, "resid_post")], "lasst")


def test_no_condition_is_refused():
    with pytest.raises(ValueError, match="no condition to run"):
        generate(tiny("llama"), PROMPTS, [])


@pytest.mark.parametrize("rule", [(12,), (-11,), PromptPositions("answer", [(), (12,), (9,)])])
def test_listed_positions_are_looked_for_in_the_whole_run(rule, caplog):
    """Packing decides which rows run together, and never whether a run is refused."""
    model, prompts = tiny("llama"), [[5, 6, 7], list(range(5, 16)), [8, 9]]
    edited = condition(Add(vector(1)), rule)
    packed, alone = (
        generate(model, prompts, [edited], Decoding(3), batch_tokens=size) for size in (10**6, 14)
    )
    assert packed == alone
    if isinstance(rule, tuple):
        (told, *_) = {record.getMessage() for record in caplog.records}
        assert f"names position {rule[0]}, which 2 of 3 prompts do not have: they are not" in told
    naive.assert_same(
        [
            (c.prompt, c.tokens, *naive.generate(model, prompts[c.prompt], edited, 3, c.prompt))
            for c in packed
        ]
    )
    with pytest.raises(ValueError, match="never fires: no sequence has positions"):
        generate(model, [prompts[0], prompts[2]], [condition(Add(vector(1)), (5,))], Decoding(3))


def test_missing_positions_are_told_once_for_all_conditions_of_an_arm(caplog):
    edits = [Edit(Site(layer, "resid_pre"), Add(vector(1)), (-4,)) for layer in (0, 1, 2)]
    arms = [Condition({"arm": arm}, (edit,)) for arm in ("add", "take") for edit in edits]
    check_listed(arms, [3, 5], [3, 5])
    assert [record.getMessage() for record in caplog.records] == [
        f"arm {arm}: an edit names position -4, which 1 of 2 prompts do not have: they are not "
        "edited there"
        for arm in ("add", "take")
    ]


def test_projection_is_zero_after_ablation():
    """Read in the same pass as the edit, at the input of the next module that sees the stream."""
    model = tiny("llama")
    unit = vector(8) / vector(8).norm()
    seen = {}
    ablate = condition(ProjectOut(vector(8)), "all", ("resid_post",), (1,))
    handle = model.blocks[2].register_forward_pre_hook(
        lambda module, args: seen.__setitem__("x", args[0])
    )
    generate(model, PROMPTS[:1], [Condition()], Decoding(1))
    assert (seen["x"] @ unit).abs().max() > 0.1
    generate(model, PROMPTS[:1], [ablate], Decoding(1))
    handle.remove()
    assert (seen["x"] @ unit).abs().max() < 1e-5


def test_an_edit_of_generated_tokens_may_find_none():
    """If every row ends with its first token there is nothing to edit, and nothing is wrong."""
    model = tiny("llama")
    ending = LanguageModel(model.hf, model.tokenizer, name="ends at once")
    first = generate(model, PROMPTS[:1], [Condition()], Decoding(1))[0].tokens[0]
    ending.__class__ = type("Ending", (LanguageModel,), {"end_tokens": frozenset([first])})
    for rule in ("generated", PromptPositions("answer", [(len(PROMPTS[0]),)])):
        (done,) = generate(ending, PROMPTS[:1], [condition(Add(vector(1)), rule)], Decoding(STEPS))
        assert (done.tokens, done.stopped) == ((), "end")


def test_the_first_token_is_the_first_behind_the_pads():
    absolute = torch.tensor([[-1, -1, 0, 1, 2], [0, 1, 2, 3, 4], [-1, -1, -1, -1, 0]])
    lengths, numbers = torch.tensor([2, 4, 1]), torch.arange(3)
    mask = position_mask("after_first", absolute, lengths, numbers)
    assert mask.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_unknown_layers_sites_and_rules_are_named():
    model = tiny("llama")
    with pytest.raises(ValueError, match=r"no layer 9; valid: 0 to 3"):
        generate(model, PROMPTS, [condition(Add(vector(1)), "all", layers=(9,))])
    with pytest.raises(ValueError, match="'resid_ost'; valid: resid_pre"):
        Site(1, "resid_ost")
    with pytest.raises(
        ValueError, match="'first' is unknown; valid: all, after_first, last, generated"
    ):
        Edit(Site(0, "resid_pre"), Add(vector(1)), "first")
    with pytest.raises(ValueError, match="no resid_mid"):
        generate(tiny("neox"), PROMPTS, [condition(Add(vector(1)), "all", ("resid_mid",))])
    long = dataclasses.replace(Decoding(), max_new_tokens=10**6)
    with pytest.raises(ValueError, match="exceed the context"):
        generate(model, PROMPTS, [Condition()], long)


def test_last_scores_are_the_logits_of_the_naive_loop():
    model = tiny("gemma2")
    conditions = [Condition(), *(c for c in GRID if c.axes["positions"] != "generated")]
    scores = score_last(model, PROMPTS, conditions, lambda x: x, batch_tokens=200)
    for c, cond in enumerate(conditions):
        for p, prompt in enumerate(PROMPTS):
            _, logits = naive.generate(model, prompt, cond, 1, p)
            torch.testing.assert_close(scores[c, p], logits[0], atol=1e-5, rtol=1e-5)


def test_cross_entropy_is_transformers_loss():
    model = tiny("llama")
    losses = cross_entropy(model, PROMPTS, [Condition()], batch_tokens=100)
    for p, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        assert losses[0, p] == pytest.approx(float(model.hf(ids, labels=ids).loss), abs=1e-5)


@pytest.mark.parametrize("rule", ["all", "last", (-3, -1)])
def test_collection_is_hidden_states_of_each_prompt_alone(rule):
    model = tiny("gpt2")
    sites = [Site(0, "embed"), Site(2, "resid_pre"), Site(2, "resid_post")]
    values, rows = collect(model, PROMPTS, sites, rule, batch_tokens=40)
    for p, prompt in enumerate(PROMPTS):
        states = model.hf(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        at = rows[rows["prompt"] == p]
        expected = {"all": range(len(prompt)), "last": [len(prompt) - 1]}.get(
            rule, [len(prompt) - 3, len(prompt) - 1]
        )
        assert at["position"].tolist() == list(expected)
        assert at["token"].tolist() == [prompt[i] for i in expected]
        for site, index in zip(sites, (0, 2, 3), strict=True):
            torch.testing.assert_close(
                values[site][at.index], states[index][0, list(expected)], atol=1e-5, rtol=1e-5
            )


def test_plan_covers_every_row_once_within_the_budget():
    lengths = [5, 9, 2, 7, 30]
    packed = chunks.plan(4, lengths, batch_tokens=64, new_tokens=3, repeats=2)
    rows = [row for chunk in packed for row in chunk.rows]
    assert len(rows) == len(set(rows)) == 4 * 5 * 2
    for chunk in packed:
        longest = max(lengths[row.prompt] for row in chunk.rows) + 3
        assert longest * chunk.slots <= 64 or chunk.slots == 1
        assert len(chunk.rows) <= 4 * chunk.slots or len({r.condition for r in chunk.rows}) == 1


def test_rows_enter_as_others_end_and_none_runs_for_nothing():
    """Of every row each token but the last is fed once; never do more rows run than there may."""
    model = tiny("llama")
    early = LanguageModel(model.hf, model.tokenizer, name="one token in seven ends")
    early.__class__ = type("Early", (LanguageModel,), {"end_tokens": frozenset(range(3, 30))})
    conditions = [Condition(), *(condition(Add(vector(n)), "generated") for n in range(8))]
    steps, sizes = 12, []
    (chunk,) = chunks.plan(9, [len(p) for p in PROMPTS], batch_tokens=10**4, new_tokens=steps)
    chunk = dataclasses.replace(chunk, slots=10)
    decoding = Decoding(steps, temperature=1.0)
    handle = model.blocks[0].register_forward_hook(
        lambda module, args, output: sizes.append(tuple(args[0].shape[:2]))
    )
    done = generate_chunk(early, PROMPTS, conditions, chunk, decoding, seed=0, samples=range(7))
    handle.remove()
    assert sizes[0] == (len(PROMPTS), max(map(len, PROMPTS)))  # the one clean run
    assert {width for _, width in sizes[1:]} == {1}
    fed = [rows for rows, _ in sizes[1:]]
    assert max(fed) <= 10
    assert sum(fed) == sum(len(c.tokens) - (c.stopped == "length") for c in done)
    assert {c.stopped for c in done} == {"end", "length"}
    # 63 rows, ten at a time: seven batches one after the other would take up to 12 steps each.
    assert len(fed) < 0.6 * 7 * steps


def test_gumbel_noise_samples_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    n = 40_000
    keys = row_keys(0, list(range(n)), [0] * n)
    tokens = choose(logits.expand(n, -1), Decoding(temperature=1.0), keys, FIRST)
    expected = logits.softmax(-1) * n
    counts = torch.bincount(tokens, minlength=5)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 18.5  # 4 degrees of freedom: 0.1 %
    noise = gumbel(keys[:2000, None], torch.tensor([3]), torch.arange(50))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    steps = torch.stack([gumbel(keys, torch.tensor(step), torch.tensor(0)) for step in (0, 1)])
    assert abs(float(torch.corrcoef(steps)[0, 1])) < 0.02


def test_top_k_top_p_and_forbidden_tokens_leave_what_they_say():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(5000, -1)
    keys = row_keys(1, list(range(5000)), [0] * 5000)
    seen = lambda **k: set(choose(logits, Decoding(temperature=1.0, **k), keys, FIRST).tolist())  # noqa: E731
    assert seen() == {0, 1, 2, 3}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.8) == {0, 1}
    assert seen(top_p=0.81) == {0, 1, 2}
    assert seen(top_p=0.01) == {0}
    assert seen(forbidden=(0, 2)) == {1, 3}
    assert seen(forbidden=(0,), top_p=0.6) == {1}
    assert choose(logits[:1], Decoding(forbidden=(0,)), keys[:1], FIRST).tolist() == [1]


def test_tokens_that_are_kept_meet_the_noise_they_meet_among_all():
    keys = row_keys(1, list(range(300)), [0] * 300)
    logits = torch.randn(300, 500, generator=torch.Generator().manual_seed(3))
    noise = gumbel(keys[:, None], torch.arange(300)[:, None] % 7, torch.arange(500))
    steps = torch.arange(300) % 7
    for top_k in (1, 7, 499):
        left = logits >= logits.topk(top_k).values[:, -1:]
        expected = (logits + noise).masked_fill(~left, -torch.inf).argmax(-1)
        assert torch.equal(
            choose(logits, Decoding(temperature=1.0, top_k=top_k), keys, steps), expected
        )
    assert torch.equal(
        choose(logits, Decoding(temperature=1.0), keys, steps), (logits + noise).argmax(-1)
    )


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_keeps_what_transformers_does(top_p):
    """Rows from peaked to flat: of the flat ones nearly all tokens are kept."""
    spread = torch.tensor([8.0, 4.0, 2.0, 0.5, 0.01])[:, None]
    logits = spread * torch.randn(5, 1000, generator=torch.Generator().manual_seed(3))
    theirs = TopPLogitsWarper(top_p)(None, logits).isfinite()
    probability = logits.softmax(-1)
    assert torch.equal(probability >= least_kept(probability, top_p), theirs)
    assert theirs[0].sum() < 256
    assert top_p < 0.5 or theirs[-1].sum() > 256


def test_noise_differs_by_seed_sample_repeat_and_token():
    tokens = torch.arange(VOCAB)
    base = gumbel(row_keys(0, [1], [0]), FIRST, tokens)
    for other in (row_keys(1, [1], [0]), row_keys(0, [2], [0]), row_keys(0, [1], [1])):
        assert not torch.equal(base, gumbel(other, FIRST, tokens))
    assert len(base.unique()) > VOCAB * 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": -1},
        {"repeats": 0},
        {"repeats": 2},
    ],
)
def test_decoding_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Decoding(**wrong)
