"""Torch modules to what phones run. Profiling measures and export writes what these functions give, so they agree."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.conversion.coreml import keeps_float32, register_operations
from nas.conversion.libraries import coremltools, first_line, missing_library, quiet
from nas.errors import ConfigError, NasError, suggestion
from nas.failures import NO_MEMORY, ToolError, is_unsupported
from nas.files import replacing

COREML_TARGETS = ("iOS17", "iOS18")
"""From iOS 18 on, attention stays one op; for iOS 17 it becomes two products and a softmax."""

_NO_OPS = {torch.ops.aten.alias.default, torch.ops.aten.detach.default}
_CHECKS = {torch.ops.aten._assert_tensor_metadata.default}


class Unconvertible(NasError):
    """A format has no way to say what a module computes."""


def to_coreml(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    target: str = "iOS17",
    float32: Collection[str] = (),
    float32_residual: bool = False,
) -> Any:
    """A Core ML program of `module` in float16, as a `coremltools.models.MLModel` that is not compiled or loaded.

    What `nas.conversion.coreml.keeps_float32` names stays float32: timesteps up to their sines, squares up to their root.

    Args:
        module: in evaluation mode; tensors of rank 5 at most.
        inputs: examples by the names of `forward`'s arguments, in order; their shapes are the program's. Floats become
            float16 inputs, whole numbers int32.
        output: what to call the result, a float16 tensor.
        target: the oldest system it runs on, of `COREML_TARGETS`.
        float32: inputs that stay float32.
        float32_residual: layer norms and the sums before them stay float32, at little cost: they hold few of the
            operations of a transformer and most of what it loses in float16.

    Raises:
        ConfigError: an unknown target.
        MissingDependency: coremltools is not installed.
        Unconvertible: Core ML has no way to say what the module computes.
        ToolError: the converter failed for another reason.
    """
    if target not in COREML_TARGETS:
        raise ConfigError(f"target: unknown '{target}'{suggestion(target, COREML_TARGETS)}")
    ct = coremltools()
    register_operations()

    def dtype(name: str) -> type:
        if not inputs[name].is_floating_point():
            return ct.converters.mil.mil.types.int32
        return ct.converters.mil.mil.types.fp32 if name in float32 else ct.converters.mil.mil.types.fp16

    try:
        with quiet():
            return ct.convert(
                exported_program(module, inputs),
                inputs=[ct.TensorType(name=name, shape=x.shape, dtype=dtype(name)) for name, x in inputs.items()],
                outputs=[ct.TensorType(name=output, dtype=ct.converters.mil.mil.types.fp16)],
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=ct.transform.FP16ComputePrecision(lambda op: not keeps_float32(op, float32_residual)),
                convert_to="mlprogram",
                skip_model_load=True,
            )
    except Exception as error:
        raise _refused(module, "Core ML", error) from error


def exported_program(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """The module's graph at these shapes in basic operations, without those that do nothing."""
    program = torch.export.export(module.eval(), tuple(distinct(inputs).values())).run_decompositions({})
    graph = program.graph
    for node in list(graph.nodes):
        if node.target in _NO_OPS:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in _CHECKS:
            graph.erase_node(node)
    return program


def distinct(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the inputs, none of which shares memory with another.

    torch.export takes one tensor given as two arguments for one argument: the program would ignore the other.
    """
    return {name: x.detach().clone() for name, x in inputs.items()}


def to_litert(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> Path:
    """Write `module` as a LiteRT model in float32 whose inputs have the names of `inputs`.

    Raises:
        MissingDependency: litert-torch is not installed.
        Unconvertible: LiteRT has no way to say what the module computes.
        ToolError: the converter failed for another reason.
    """
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            import litert_torch
    except ImportError as error:
        raise missing_library("litert-torch", "'nas-video[litert]'", error) from None
    except Exception as error:
        raise _refused(module, "LiteRT", error) from error
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            model = litert_torch.convert(module.eval(), sample_kwargs=distinct(inputs))
            with replacing(path) as temporary:
                model.export(str(temporary))
    except Exception as error:
        raise _refused(module, "LiteRT", error) from error
    return path


def _refused(module: nn.Module, format: str, error: Exception) -> Exception:
    """What to raise for an error of a converter: the workload's fault, the converter's, or this machine's."""
    if isinstance(error, MemoryError | OSError | NasError) or NO_MEMORY.search(str(error)):
        return error
    name = type(module).__name__
    if is_unsupported(error):
        return Unconvertible(f"{name} cannot be converted to {format}: {first_line(error)}")
    said = f"{type(error).__name__}: {first_line(error)}{_room()}"
    return ToolError(f"{name}: the converter to {format} failed: {said}")


def _room() -> str:
    """What a converter may not say by itself: that the disk for temporary files is full."""
    with contextlib.suppress(OSError):
        folder = tempfile.gettempdir()
        free_mb = shutil.disk_usage(folder).free / 1e6
        if free_mb < 100:
            return f" (the temporary folder {folder} has {free_mb:.1f} MB free; set TMPDIR to another)"
    return ""
