"""Conformance tests for temporal operators.

class TestShift1D(OperatorTestCase):
    @pytest.fixture(params=[Operator("Shift1D", {"shift": 1}), Operator("Shift1D", {"shift": 2})], ids=str)
    def operator(self, request):
        return request.param
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nas.conversion.variants import as_variant
from nas.costs.workload_counts import activation_bytes, count_ops
from nas.models import build_operator
from nas.spaces import Operator, Workload, resolve


class OperatorTestCase:
    """What the denoiser, the supernet, the runtimes and the exports expect of an operator's spec and module.

    A subclass defines the fixture `operator`; `channels` must suit all of its operators.
    """

    channels = 12
    context_dim = 10

    @pytest.fixture
    def operator(self) -> Operator:
        raise NotImplementedError("define the fixture operator")

    @pytest.fixture
    def module(self, operator: Operator) -> nn.Module:
        """Untrained, as `nas.models.build` inserts it."""
        torch.manual_seed(0)
        return build_operator(operator, self.channels, self.context_dim)

    @pytest.fixture
    def random_module(self, module: nn.Module) -> nn.Module:
        """With random parameters: the zero-initialized ones would hide the effect of the others."""
        torch.manual_seed(0)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
        return module.eval()

    def test_the_references_of_the_spec_can_be_imported(self, operator: Operator) -> None:
        spec = operator.spec
        assert issubclass(resolve(spec.module), nn.Module)
        references = [*([spec.count_ops] if spec.count_ops else []), *spec.variants.values()]
        assert all(callable(resolve(reference)) for reference in references)

    @pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 1, 3, 2), (1, 5, 2, 3), (1, 50, 2, 2)])
    def test_an_untrained_operator_returns_its_input(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        """For any number of frames: inserting an untrained layer changes nothing."""
        x, context = self._inputs(*shape)
        assert torch.equal(module(x, context), x)

    @pytest.mark.parametrize("frames", [1, 3, 50])
    def test_the_output_has_the_shape_of_the_input(self, random_module: nn.Module, frames: int) -> None:
        x, context = self._inputs(1, frames, 2, 2)
        y = random_module(x, context)
        assert y.shape == x.shape and bool(y.isfinite().all())

    def test_an_untrained_operator_has_a_gradient(self, module: nn.Module) -> None:
        x, context = self._inputs(2, 3, 2, 2)
        module(x, context).square().sum().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())

    def test_every_parameter_has_a_gradient(self, random_module: nn.Module) -> None:
        x, context = self._inputs(2, 3, 2, 2)
        random_module(x, context).square().sum().backward()
        unused = [name for name, p in random_module.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert unused == []

    def test_counted_parameters_are_the_modules(self, operator: Operator, module: nn.Module) -> None:
        if not operator.spec.count_ops:
            pytest.skip(f"{operator.kind} has no count_ops")
        context = (1, 4, self.context_dim) if operator.uses_text else None
        workload = Workload(operator, (1, self.channels, 3, 4, 4), context)
        counts = count_ops(workload)
        assert counts.params == sum(parameter.numel() for parameter in module.parameters())
        assert counts.flops > 0 and counts.memory_traffic > 0 and counts.kernels > 0
        assert activation_bytes(workload) > 0

    @pytest.mark.parametrize("frames", [1, 4])
    def test_variants_equal_the_reference(self, operator: Operator, random_module: nn.Module, frames: int) -> None:
        x, context = self._inputs(2, frames, 3, 5)
        with torch.inference_mode():
            expected = random_module(x, context)
            for name in operator.spec.variants:
                variant = as_variant(copy.deepcopy(random_module), operator.kind, name)
                torch.testing.assert_close(variant(x, context), expected, rtol=1e-4, atol=1e-4)

    def test_it_exports_with_tensors_of_rank_five_at_most(self, random_module: nn.Module) -> None:
        """Mobile runtimes have no kernels for more dimensions."""
        x, context = self._inputs(1, 3, 2, 2)
        program = torch.export.export(random_module, (x, context))
        torch.testing.assert_close(program.module()(x, context), random_module(x, context))
        values = [node.meta.get("val") for node in program.graph.nodes]
        assert max(value.dim() for value in values if isinstance(value, Tensor)) <= 5

    def _inputs(self, batch: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """x `(batch, channels, frames, height, width)` and a context `(batch, 4, context_dim)`."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, self.channels, frames, height, width, generator=generator)
        return x, torch.randn(batch, 4, self.context_dim, generator=generator)
