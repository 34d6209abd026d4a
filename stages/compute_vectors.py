"""activations/ and other fits -> fits/NAME/: directions, autoencoders, with provenance."""

from pipeline.config.errors import at_key
from stages import Job, main


def run(job: Job) -> None:
    """Compute and save one fit of the study."""
    name = job.stage.fit
    assert name is not None
    with job.scratch(f"fits/{name}") as work, at_key(f"fits.{name}"):
        fit = job.call(job.study.fits[name], work=work)
        fit.save(work / name)
    job.tracked.summary({"provenance": fit.provenance.record})


if __name__ == "__main__":
    main()
