"""dataset.parquet and the model -> activations/, a sharded store."""

from pipeline.config.errors import at_key
from pipeline.data.positions import locate
from pipeline.data.prompts import select_prompts
from pipeline.model.sites import Site
from pipeline.store.collecting import write_store
from stages import Job, main


def run(job: Job) -> None:
    """Store the activations of the splits' prompts at the configured positions and sites."""
    collect, model = job.study.collect, job.inputs.model
    assert collect is not None
    with at_key("collect.positions"):
        tokens, positions = locate(
            select_prompts(job.inputs.prompts, collect.prompts, collect.splits),
            model.tokenizer,
            collect.positions,
            variables=model.template,
        )
    sites = [Site(n, name) for n in range(model.n_layers) for name in collect.components]
    with job.scratch("activations") as work:
        store = write_store(
            work / "activations",
            model,
            tokens,
            positions,
            [*sites, *map(Site.parse, collect.sites)],
            revision=job.study.model.revision or "",
            rule=str(collect.positions),
            rows_per_shard=collect.rows_per_shard,
        )
    shards = store.index.shards
    size = sum(shard.bytes for shard in shards)
    job.tracked.summary({"rows": len(store), "bytes": size, "shards": len(shards)})
    fingerprint = {"fingerprint": store.fingerprint.digest}
    job.tracked.reference("activations", job.folder / "activations", fingerprint)


if __name__ == "__main__":
    main()
