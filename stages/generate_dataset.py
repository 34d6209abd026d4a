"""The dataset -> dataset.parquet (prompts) and texts.parquet (unrelated text), tokenised."""

import logging

from pipeline.config.contracts import bound
from pipeline.config.errors import at_key
from pipeline.data.prompts import doubts, tokenised_prompts, tokenised_texts
from pipeline.model.tokenizer import load_tokenizer
from pipeline.runs.scratch import whole_file
from stages import Job, main

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Load, render and tokenise the prompts."""
    study = job.study
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    prompts = tokenised_prompts(
        bound(study.dataset)(),
        tokenizer,
        system=study.model.system,
        variables=study.model.template,
    )
    for doubt in doubts(prompts):
        log.warning(doubt)
    with at_key("text"):
        texts = tokenised_texts(study.text, tokenizer)
    for name, table in (("dataset", prompts), ("texts", texts)):
        with whole_file(job.folder / f"{name}.parquet") as path:
            table.to_parquet(path)
    counts = prompts.groupby(["label", "split"]).size()
    job.tracked.summary(
        {f"prompts/{label}/{split}": int(n) for (label, split), n in counts.items()}
    )
    job.tracked.table("dataset", prompts.drop(columns="tokens"))


if __name__ == "__main__":
    main()
