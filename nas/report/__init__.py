"""Reports on run folders: the HTML page (`write`), figures for papers (`nas.report.plots`), and the final summary of `nas run`.

Imports no torch, and matplotlib only when a plot is drawn.
"""

from nas.report.page import write
from nas.runs.record import RunRecord

__all__ = ["RunRecord", "write"]
