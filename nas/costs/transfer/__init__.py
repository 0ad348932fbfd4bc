"""Carry lookup tables over to a new device by a few measurements on it."""

from nas.costs.transfer.predictors import MIN_ROWS
from nas.costs.transfer.problem import Transfer, TransferReport

__all__ = ["MIN_ROWS", "Transfer", "TransferReport"]
