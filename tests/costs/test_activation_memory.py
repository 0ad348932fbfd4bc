import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas.costs.workload_counts import activation_bytes
from nas.models import build_operator
from nas.spaces import Operator, Workload, operator_kinds


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of all storages alive, and their peak, on any device; fused attention is one op here."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


@pytest.mark.parametrize("size", [(2, 32, 4, 8, 8), (1, 64, 8, 16, 16)])
@pytest.mark.parametrize("kind", operator_kinds())
def test_the_estimate_is_near_the_bytes_torch_holds(kind, size):
    operator = Operator(kind)
    module, x, text = build_operator(operator, size[1], 24), torch.randn(size), torch.randn(size[0], 16, 24)
    with torch.no_grad(), PeakBytes() as measured:
        module(x, text)
    peak = measured.peak + x.nbytes
    assert 0.7 * peak < activation_bytes(Workload(operator, size, (size[0], 16, 24))) < 1.5 * peak


def test_self_attention_at_full_resolution_says_what_it_needs():
    shape = (1, 160, 8, 64, 64)
    workload = Workload(Operator("SelfAttention3D"), shape)
    fused, split = (activation_bytes(workload, fused_attention=fused) for fused in (True, False))
    assert fused < 1e9 and split > 8 * 32768**2 * 4  # eight heads of 32768 x 32768 scores: 34 GB and more
