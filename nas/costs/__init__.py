"""Floor 1: numbers about choices. Lookup table, budget, cost model; no torch."""

from nas.costs.budget import Budget
from nas.costs.model import Cost, CostModel, CostTerms
from nas.costs.table import Calibration, LookupTable, Row, TableWriter

__all__ = ["Budget", "Calibration", "Cost", "CostModel", "CostTerms", "LookupTable", "Row", "TableWriter"]
