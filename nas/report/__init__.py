"""Floor 4: a run, shown. Reads run folders; imports no torch, and matplotlib only where a plot is drawn.

`write` makes the page, `nas.report.plots` the figures for a paper, `nas.report.summary` the final screen.
"""

from nas.report.page import write
from nas.runs.record import RunRecord

__all__ = ["RunRecord", "write"]
