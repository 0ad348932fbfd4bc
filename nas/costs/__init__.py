"""What an architecture costs on a device: lookup table, cost model, budget, operation counts. Imports no torch."""

from nas.costs.budget import Budget
from nas.costs.cost import Cost
from nas.costs.devices import Costs, DeviceCosts, as_costs
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
    "Costs",
    "DeviceCosts",
    "Generation",
    "LookupTable",
    "Provenance",
    "Row",
    "TableWriter",
    "as_costs",
]
