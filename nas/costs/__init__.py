"""What an architecture costs on a device: lookup table, cost model, budget, operation counts. Imports no torch."""

from nas.costs.budget import Budget
from nas.costs.cost import Cost
from nas.costs.generation import Generation
from nas.costs.model import CostModel
from nas.costs.provenance import Provenance
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
    "Provenance",
    "Row",
    "TableWriter",
]
