"""The report of a study: one HTML page that needs no network, and every score as a table beside it."""

from trocar.study.report.page import write

__all__ = ["write"]
