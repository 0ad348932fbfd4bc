"""Core ML programs of single modules compute the same as torch, evaluated by the MIL interpreter."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nas.conversion import convert
from nas.conversion.convert import COREML_TARGETS, to_coreml
from nas.conversion.mil import Program
from nas.models import build_operator
from nas.spaces import Operator

KINDS = ("SelfAttention1D", "SelfAttention3D", "CrossAttention1D", "CrossAttention3D", "Conv1D", "Conv3D")


def relative_error(output, expected):
    return ((output - expected).norm() / expected.norm()).item()


def evaluated(module, inputs, float16=False, target="iOS17"):
    """The program's operations, and its result for the inputs it was converted with."""
    program = Program.of(to_coreml(module, inputs, "y", target))
    return list(program.operations()), program.run(inputs, float16)


@pytest.mark.parametrize(
    ("kind", "target"),  # convolutions are the same operations for every target
    [(kind, target) for kind in KINDS for target in (COREML_TARGETS if "Attention" in kind else COREML_TARGETS[:1])],
)
def test_operator_program_matches_torch(kind, target):
    """All sizes differ, so that swapped axes are detected. The weights are exact in float16."""
    torch.manual_seed(0)
    arguments = {"heads": 2} if "Attention" in kind else {"kernel": 3}
    module = build_operator(Operator(kind, tuple(arguments.items())), 16, 12).eval()
    for parameter in module.parameters():
        parameter.data = (0.25 * torch.randn_like(parameter)).half().float()
    inputs = {"x": torch.randn(1, 16, 3, 4, 5)}
    if "Cross" in kind:
        inputs["context"] = torch.randn(1, 7, 12)
    with torch.no_grad():
        expected = module(**inputs)
    operations, result = evaluated(module, inputs, target=target)
    (output,) = result.outputs.values()
    assert relative_error(expected, inputs["x"]) > 0.1  # an operator that returns its input would test nothing
    assert relative_error(output, expected) < 1e-4
    fused = any(op.op_type == "scaled_dot_product_attention" for op in operations)
    assert fused == (target == "iOS18" and "Attention" in kind and kind != "CrossAttention1D")


@pytest.mark.parametrize(("approximate", "mode"), [("tanh", "TANH_APPROXIMATION"), ("none", "EXACT")])
def test_gelu_keeps_its_approximation(approximate, mode):
    x = torch.linspace(-4, 4, 101)[None]
    operations, result = evaluated(nn.GELU(approximate), {"input": x})
    assert [op.mode.val for op in operations if op.op_type == "gelu"] == [mode]
    (output,) = result.outputs.values()
    other = F.gelu(x, approximate="none" if approximate == "tanh" else "tanh")
    assert (output - F.gelu(x, approximate=approximate)).abs().max() < 1e-5 < (output - other).abs().max()


def test_group_norm_does_not_overflow_in_float16(monkeypatch):
    """The square of a deviation of 300 exceeds float16's maximum of 65504."""
    torch.manual_seed(0)
    module, x = nn.GroupNorm(2, 8), 400 * torch.randn(1, 8, 6, 6)
    expected = module(x).detach()
    _, result = evaluated(module, {"input": x}, float16=True)
    (output,) = result.outputs.values()
    assert not result.not_finite and relative_error(output, expected) < 2e-3
    monkeypatch.setattr(convert, "keeps_float32", lambda op, residual: False)
    assert evaluated(module, {"input": x}, float16=True)[1].not_finite


def test_sums_before_layer_norms_stay_float32_on_request():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x):
            return self.norm(x + self.linear(x)) + 1

    def float32_operations(**options):
        model = to_coreml(Block(), {"x": torch.randn(2, 8)}, "y", **options)
        kinds = {"add", "layer_norm", "linear"}
        operations = (op for op in Program.of(model).operations() if op.op_type in kinds)
        return [op.op_type for op in operations if op.outputs[0].dtype.__name__ == "fp32"]

    assert float32_operations() == []
    assert float32_operations(float32_residual=True) == ["add", "layer_norm"]
