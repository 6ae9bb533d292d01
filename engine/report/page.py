"""Reports as pages in one file, without a server or a network: of a run, or of several side by side."""

from __future__ import annotations

from pathlib import Path

from engine.core.pages import templates_in
from engine.report.content import ComparisonReport, RunReport, percent

REPORT_FILE = "report.html"
"""Name of the report in the folder of a run."""


def run_page(report: RunReport) -> str:
    """The report of a run as HTML. All text is escaped, and the page's own policy forbids it to load anything."""
    return _ENVIRONMENT.get_template("run.html.j2").render(report._asdict(), percent=percent)


def comparison_page(report: ComparisonReport) -> str:
    """The report of several runs as HTML, otherwise as `run_page`."""
    return _ENVIRONMENT.get_template("comparison.html.j2").render(report._asdict())


_ENVIRONMENT = templates_in(Path(__file__).parent / "templates")
