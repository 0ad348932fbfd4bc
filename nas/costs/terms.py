"""The cost model as arrays by slot and code, and vectorized evaluation for many architectures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CostTerms:
    """The cost model as arrays, one per slot, indexed by a choice's code. Used by solvers.

    `latency = base_latency_ms + sum latency_ms[i][c_i]`; `params` likewise;
    `memory = base_weights_mb + sum weights_mb[i][c_i] + max(base_peak_mb, max peak_mb[i][c_i])`.
    A workload that cannot run on the device has infinite latency.
    """

    latency_ms: list[np.ndarray]
    params: list[np.ndarray]
    weights_mb: list[np.ndarray]
    peak_mb: list[np.ndarray]
    base_latency_ms: float = 0.0
    base_params: int = 0
    base_weights_mb: float = 0.0
    base_peak_mb: float = 0.0


class TabulatedCosts:
    """Evaluates the costs of many architectures: consecutive slots form groups whose joint choices are tabulated.

    One gather per group then covers about four slots, and each group's table fits into the processor's cache.
    """

    ENTRIES = 4096
    CHUNK = 1 << 15

    def __init__(self, terms: CostTerms) -> None:
        self.base = terms
        self.groups: list[np.ndarray] = []  # (joint choices, 4): latency, params, weights, peak
        sizes = [len(latency) for latency in terms.latency_ms]
        strides: list[tuple[int, int]] = []  # (group, stride) of each slot
        for i, size in enumerate(sizes):
            slot = np.stack([terms.latency_ms[i], terms.params[i], terms.weights_mb[i], terms.peak_mb[i]], axis=1)
            if self.groups and len(self.groups[-1]) * size <= self.ENTRIES:
                joint = self.groups[-1]
                strides.append((len(self.groups) - 1, len(joint)))
                total = joint[None, :, :] + slot[:, None, :]
                total[..., 3] = np.maximum(joint[None, :, 3], slot[:, None, 3])
                self.groups[-1] = total.reshape(-1, 4)
            else:
                strides.append((len(self.groups), 1))
                self.groups.append(slot.astype(float))
        # float32 counts exactly up to 2^24, far above ENTRIES, and lets BLAS do the indexing
        self.index = np.zeros((len(sizes), len(self.groups)), dtype=np.float32)
        for i, (group, stride) in enumerate(strides):
            self.index[i, group] = stride
        self.columns = [[np.ascontiguousarray(group[:, k]) for group in self.groups] for k in range(4)]

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """`(N, slots)` -> `(N, 3)`: latency_ms, memory_mb, params."""
        out = np.empty((len(codes), 3), order="F")
        for start in range(0, len(codes), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            index = (codes[part].astype(np.float32) @ self.index).astype(np.intp).T.copy()
            latency, params, weights, peak = (
                [column.take(i) for column, i in zip(columns, index)] for columns in self.columns
            )
            out[part, 0] = sum(latency, self.base.base_latency_ms)
            out[part, 1] = sum(weights, self.base.base_weights_mb)
            highest = np.full(len(index[0]), self.base.base_peak_mb)
            for candidate in peak:
                np.maximum(highest, candidate, out=highest)
            out[part, 1] += highest
            out[part, 2] = sum(params, float(self.base.base_params))
        return out
