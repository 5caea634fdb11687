"""The report of an evaluation: tables, figures and one self-contained page."""

from medrobust.results.report.page import finish, write_report

__all__ = ["finish", "write_report"]
