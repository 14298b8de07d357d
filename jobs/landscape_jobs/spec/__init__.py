"""Job files: what a job may say, and what is wrong with one."""

from landscape_jobs.spec.job import Job, load_job, parse_job

__all__ = ["Job", "load_job", "parse_job"]
