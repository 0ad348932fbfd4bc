"""Operator variants: modules that compute the same as an operator's reference module and run faster on some runtimes.

| operator | variant | implementation |
| --- | --- | --- |
| `Conv1D` | `reference` | one (k,1) `Conv2d` over (T, H*W) |
| | `shifted` | k pointwise `Conv2d`s on shifted frames, frames in the batch, summed |
| | `folded` | k shifted frames concatenated to k C channels, one pointwise `Conv2d` |
| | `native` | one (k,1,1) `Conv3d` |
| `Conv3D` | `reference` | k shifted (k,k) `Conv2d`s, frames in the batch, summed |
| | `folded` | k shifted frames concatenated to k C channels, one (k,k) `Conv2d` |
| | `native` | one (k,k,k) `Conv3d` |

The attention operators only have the `reference`, which does not repeat keys and values (see `nas.models.operators`).
The `OperatorSpec` of a kind lists its variants. Profiling measures which one is fastest for each workload and records
it in the lookup table's `variant` column; `apply_variants` makes an exported denoiser use the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.errors import ConfigError, suggestion
from nas.models.denoiser import Denoiser, module_name
from nas.models.operators import Conv1D, Conv3D
from nas.spaces import NONE, operator_spec, resolve

REFERENCE = "reference"


class ConvVariant(nn.Module):
    """Norm, activation, one implementation of a temporal convolution, residual: `(B, C, T, H, W)` -> the same shape.

    Args:
        norm: the reference operator's norm.
        mix: the convolution of `(B, C, T, H, W)`.
    """

    def __init__(self, norm: nn.Module, mix: nn.Module) -> None:
        super().__init__()
        self.norm, self.mix = norm, mix

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = F.silu(self.norm(x.reshape(x.shape[0], x.shape[1], -1))).reshape(x.shape)
        return x + self.mix(hidden)


class ShiftedConv(nn.Module):
    """The sum of one 2D convolution per temporal kernel position, each on the frames shifted to that position."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        middle = len(weight) // 2
        self.convs = nn.ModuleList(_conv2d(part, bias if i == middle else None) for i, part in enumerate(weight))

    def forward(self, x: Tensor) -> Tensor:
        return _from_frames(sum(conv(part) for conv, part in zip(self.convs, shifted_frames(x, len(self.convs)))), x)


class FoldedConv(nn.Module):
    """One 2D convolution over the concatenated channels of all frames in the temporal kernel."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.kernel = len(weight)
        self.conv = _conv2d(torch.cat(list(weight), dim=1), bias)

    def forward(self, x: Tensor) -> Tensor:
        return _from_frames(self.conv(torch.cat(shifted_frames(x, self.kernel), dim=1)), x)


class NativeConv(nn.Module):
    """A temporal convolution as one `Conv3d`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        kernel, outputs, inputs, height, width = weight.shape
        padding = (kernel // 2, height // 2, width // 2)
        self.conv = nn.Conv3d(inputs, outputs, (kernel, height, width), padding=padding, device="meta")
        _set_parameters(self.conv, weight.transpose(0, 1).transpose(1, 2).contiguous(), bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def shifted(operator: nn.Module) -> nn.Module:
    """The `shifted` variant of a `Conv1D`."""
    return _conv_variant(operator, ShiftedConv)


def folded(operator: nn.Module) -> nn.Module:
    """The `folded` variant of a `Conv1D` or `Conv3D`."""
    return _conv_variant(operator, FoldedConv)


def native(operator: nn.Module) -> nn.Module:
    """The `native` variant of a `Conv1D` or `Conv3D`."""
    return _conv_variant(operator, NativeConv)


def _conv_variant(operator: nn.Module, mix: Callable[[Tensor, Tensor], nn.Module]) -> nn.Module:
    return ConvVariant(operator.norm, mix(*_kernel(operator))).train(operator.training)


def variants_of(kind: str) -> tuple[str, ...]:
    """Names of the variants of an operator kind, the reference first."""
    return (REFERENCE, *operator_spec(kind).variants)


def as_variant(module: nn.Module, kind: str, variant: str) -> nn.Module:
    """Convert an operator's module to one of its variants, which computes the same up to rounding.

    Args:
        module: an operator built by `nas.models.build_operator`. It is not modified; the result shares its parameters
            where possible.
        kind: the operator's kind.
        variant: one of `variants_of(kind)`; an empty string selects the reference.

    Raises:
        ConfigError: unknown variant.
    """
    if variant in ("", REFERENCE):
        return module
    variants = operator_spec(kind).variants
    if variant not in variants:
        raise ConfigError(f"unknown variant '{variant}' of {kind}{suggestion(variant, variants_of(kind))}")
    return resolve(variants[variant])(module)


def apply_variants(denoiser: Denoiser, variants: Mapping[str, str]) -> Denoiser:
    """Replace the temporal layers of a denoiser, in place, by the variants that a lookup table's rows name.

    Args:
        denoiser: a model built by `nas.models.build`.
        variants: variant by workload key; workloads that are not listed keep the reference.

    Raises:
        ConfigError: unknown variant of an operator.
    """
    for slot, choice in denoiser.arch.items:
        if choice != NONE:
            name, kind = module_name(slot), denoiser.space.operators[choice].kind
            variant = variants.get(str(denoiser.space.workload(slot, choice)), REFERENCE)
            denoiser.temporal[name] = as_variant(denoiser.temporal[name], kind, variant)
    return denoiser


def shifted_frames(x: Tensor, kernel: int) -> list[Tensor]:
    """`(B, C, T, H, W)` -> the input frames of each temporal kernel position, `(B*T, C, H, W)`, zero-padded in time."""
    frames, pad = x.shape[2], kernel // 2
    padded = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, 0, pad, pad))
    return [padded[:, i : i + frames].reshape(-1, x.shape[1], *x.shape[3:]) for i in range(kernel)]


def _from_frames(features: Tensor, reference: Tensor) -> Tensor:
    batch, channels, frames, height, width = reference.shape
    return features.reshape(batch, frames, channels, height, width).transpose(1, 2)


def _kernel(operator: Conv1D | Conv3D) -> tuple[Tensor, Tensor]:
    """Weight `(temporal kernel, out, in, height, width)` and bias `(out,)` of a temporal convolution."""
    if isinstance(operator, Conv1D):
        return operator.conv.weight.detach().permute(2, 0, 1, 3)[..., None], operator.conv.bias.detach()
    middle = operator.convs[len(operator.convs) // 2]
    return torch.stack([conv.weight.detach() for conv in operator.convs]), middle.bias.detach()


def _conv2d(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    outputs, inputs, *kernel = weight.shape
    padding = tuple(size // 2 for size in kernel)
    conv = nn.Conv2d(inputs, outputs, tuple(kernel), padding=padding, bias=bias is not None, device="meta")
    return _set_parameters(conv, weight.contiguous(), bias)


def _set_parameters(conv: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    conv.weight = nn.Parameter(weight)
    if bias is not None:
        conv.bias = nn.Parameter(bias)
    return conv
