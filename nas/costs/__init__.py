"""Floor 1: numbers about choices. Lookup table, budget, cost model; no torch."""

from nas.costs.budget import Budget
from nas.costs.generation import Generation
from nas.costs.model import Cost, CostModel
from nas.costs.row import Row
from nas.costs.table import Calibration, LookupTable, TableWriter
from nas.costs.terms import CostTerms

__all__ = [
    "Budget",
    "Calibration",
    "Cost",
    "CostModel",
    "CostTerms",
    "Generation",
    "LookupTable",
    "Row",
    "TableWriter",
]
