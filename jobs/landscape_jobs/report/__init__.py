"""One HTML page of results."""

from landscape_jobs.report.page import Part, write_report

__all__ = ["Part", "write_report"]
