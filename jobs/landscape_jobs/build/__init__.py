"""From a job to what it names, and running it."""

from landscape_jobs.build.run import run_job

__all__ = ["run_job"]
