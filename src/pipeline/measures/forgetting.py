"""What fine-tuned variants gain on the trained skill and lose on others, paired by prompt."""

import numpy as np
import pandas as pd

from pipeline.measures.significance import benjamini_hochberg, p_not_zero
from pipeline.measures.statistics import Estimate, estimate, paired_difference, topics_or_samples


def before_and_after(answers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a reading of `tuned_answers`: rows before the training, at step 0, and after it.

    Raises:
        ValueError: no row before the training.
    """
    before, after = answers[answers["step"] == 0], answers[answers["step"] > 0]
    if before.empty:
        raise ValueError("the reading has no rows of step 0, before the training")
    return before, after


def skill_changes(answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Estimate the change of each skill's accuracy under each variant and step.

    Trained prompts of a label are one skill, its others another one. Pairs are the same prompt
    before and after. Intervals: Newcombe's, over topics; a prompt without one is independent of
    all. p: t test over topics, NaN for a single one; corrected over all tests of the table
    (Benjamini-Hochberg).

    Args:
        answers: a reading of `tuned_answers`.
        seed: of the bootstrap.

    Returns:
        One row per variant, step, label and `trained`: `before`, `after`, `change`, `low`, `high`,
        `n` prompts and `p_adjusted`.
    """
    before, after = before_and_after(answers)
    rows = []
    by = ["variant", "step", "label", "trained"]
    for (variant, step, label, trained), part in after.groupby(by, sort=False):
        base = before[(before["label"] == label) & (before["trained"] == trained)]
        change = paired_difference(
            _scores(part), _scores(base), cluster="cluster", share=True, seed=seed
        )
        rows.append(
            {
                "variant": variant,
                "step": step,
                "label": label,
                "trained": bool(trained),
                "before": base["right"].mean(),
                "after": part["right"].mean(),
                "change": change.mean,
                "low": change.low,
                "high": change.high,
                "n": change.n,
                "p": p_not_zero(
                    np.array([change.mean]),
                    np.array([change.stderr]),
                    topics_or_samples(part).nunique(),
                )[0],
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=benjamini_hochberg(table.pop("p").to_numpy()))


def gains_and_losses(answers: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Estimate each variant's accuracy on the trained skill and its mean change on the others.

    Gain: the share of right answers, Wilson's interval over topics. Loss: the mean over skills of
    the change of accuracy, each skill weighing the same, bootstrap over skills: the interval is
    about other skills of this sort, not only about other prompts of these.

    Args:
        answers: a reading of `tuned_answers`.
        seed: of the bootstrap.

    Returns:
        One row per variant and step, those before the training too: `target`, `target_low`,
        `target_high`, `others`, `others_low`, `others_high`.

    Raises:
        ValueError: no prompt of the trained skill, or no other skill.
    """
    before, _ = before_and_after(answers)
    if answers["trained"].all() or not answers["trained"].any():
        raise ValueError("the reading has to have the trained skill and others")
    base = before[~before["trained"]].groupby("label")["right"].mean()
    rows = []
    for (variant, step), part in answers.groupby(["variant", "step"], sort=False):
        taught = part[part["trained"]]
        gain = estimate(taught["right"], topics_or_samples(taught), proportion=True, seed=seed)
        change = part[~part["trained"]].groupby("label")["right"].mean() - base
        loss = estimate(change, change.index.to_series(), proportion=False, seed=seed)
        rows.append(
            {
                "variant": variant,
                "step": step,
                "target": gain.mean,
                "target_low": gain.low,
                "target_high": gain.high,
                "others": loss.mean,
                "others_low": loss.low,
                "others_high": loss.high,
            }
        )
    return pd.DataFrame(rows)


def losses_compared(answers: pd.DataFrame, reference: str, *, seed: int) -> dict[str, Estimate]:
    """Estimate by how much each variant's change on other skills exceeds a reference's.

    After the last step of both; paired by skill, each weighing the same, bootstrap over skills.

    Args:
        answers: a reading of `tuned_answers`.
        reference: the variant to compare with.
        seed: of the bootstrap.

    Returns:
        Variant -> estimate of its accuracy minus the reference's, above 0 if it forgets less.
    """
    _, after = before_and_after(answers)
    last = after["step"] == after.groupby("variant")["step"].transform("max")
    others = after[last & ~after["trained"]]
    shares = others.pivot_table(index="label", columns="variant", values="right")
    labels = shares.index.to_series()
    return {
        variant: estimate(shares[variant] - shares[reference], labels, proportion=False, seed=seed)
        for variant in dict.fromkeys(others["variant"])
        if variant != reference
    }


def _scores(answers: pd.DataFrame) -> pd.DataFrame:
    clusters = topics_or_samples(answers)
    return answers.assign(score=answers["right"], repeat=0, cluster=clusters)
