"""Convert torch modules to Core ML and LiteRT. Profiling and export share these functions, so the measured program is
the exported one."""

from __future__ import annotations

import contextlib
import inspect
import io
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
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
"""iOS 18 has an attention operation; for iOS 17 attention becomes two matrix products and a softmax."""

_NO_OPS = {torch.ops.aten.alias.default, torch.ops.aten.detach.default}
_CHECKS = {torch.ops.aten._assert_tensor_metadata.default}


class Unconvertible(NasError):
    """A format has no operation for something that a module computes."""


def to_coreml(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str = "output",
    target: str = "iOS17",
    float32: Collection[str] = (),
    float32_residual: bool = False,
) -> Any:
    """Convert `module` to a float16 Core ML program: a `coremltools.models.MLModel` that is not compiled or loaded.

    The operations selected by `nas.conversion.coreml.keeps_float32` stay float32: timestep embeddings up to their sines
    and cosines, and normalizations up to the square root of the variance.

    Args:
        module: in evaluation mode; its tensors have at most 5 dimensions.
        inputs: example tensors by argument name of `forward`, in order; the program has their shapes. Floats become
            float16 inputs, integers int32.
        output: name of the output, a float16 tensor. A module that returns a dict names its outputs itself.
        target: minimum deployment target, one of `COREML_TARGETS`.
        float32: names of inputs that stay float32.
        float32_residual: whether layer norms and the residual sums before them stay float32. They are a small part of a
            transformer's operations and cause most of its float16 error.

    Raises:
        ConfigError: an unknown target.
        MissingDependency: coremltools is not installed.
        Unconvertible: Core ML does not support an operation of the module.
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
        with quiet(), _validated_at_the_end():
            program = exported_program(module, inputs)
            returned = program.call_spec.out_spec
            names = list(returned.context) if returned.type is dict else [output]
            return ct.convert(
                program,
                inputs=[ct.TensorType(name=name, shape=x.shape, dtype=dtype(name)) for name, x in inputs.items()],
                outputs=[ct.TensorType(name=name, dtype=ct.converters.mil.mil.types.fp16) for name in names],
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=ct.transform.FP16ComputePrecision(lambda op: not keeps_float32(op, float32_residual)),
                convert_to="mlprogram",
                skip_model_load=True,
            )
    except Exception as error:
        raise _conversion_error(module, "Core ML", error) from error


@contextlib.contextmanager
def _validated_at_the_end() -> Iterator[None]:
    """Let coremltools validate the program when it is finished, not also after each of a hundred passes, which takes a
    fourth of a conversion's time."""
    from coremltools.converters.mil.mil.program import Program

    validate = Program.validate

    def only_with_scopes(self: Any, check_essential_scope: bool = False) -> None:
        if check_essential_scope:  # of the finished program, and after passes that delete operations
            validate(self, check_essential_scope)

    Program.validate = only_with_scopes
    try:
        yield
    finally:
        Program.validate = validate


def exported_program(module: nn.Module, inputs: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    """Export the module's graph for these input shapes, decomposed to core ATen operators and without no-ops."""
    by_name = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(module.forward).parameters.values())
    given = ((), distinct(inputs)) if by_name else (tuple(distinct(inputs).values()), {})
    program = torch.export.export(module.eval(), *given).run_decompositions({})
    graph = program.graph
    for node in list(graph.nodes):
        if node.target in _NO_OPS:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in _CHECKS:
            graph.erase_node(node)
    return program


def distinct(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the inputs so that no two share memory.

    torch.export merges two arguments that are the same tensor, and the program then ignores one of them.
    """
    return {name: x.detach().clone() for name, x in inputs.items()}


def to_litert(module: nn.Module, inputs: Mapping[str, Tensor], path: Path) -> Path:
    """Write `module` as a float32 LiteRT model with the input names of `inputs`.

    Raises:
        MissingDependency: litert-torch is not installed.
        Unconvertible: LiteRT does not support an operation of the module.
        ToolError: the converter failed for another reason.
    """
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            import litert_torch
    except ImportError as error:
        raise missing_library("litert-torch", "'nas-video[litert]'", error) from None
    except Exception as error:
        raise _conversion_error(module, "LiteRT", error) from error
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            model = litert_torch.convert(module.eval(), sample_kwargs=distinct(inputs))
            with replacing(path) as temporary:
                model.export(str(temporary))
    except Exception as error:
        raise _conversion_error(module, "LiteRT", error) from error
    return path


def _conversion_error(module: nn.Module, format: str, error: Exception) -> Exception:
    """The error to raise for a converter's exception; the exception itself if it is an error of this machine."""
    if isinstance(error, MemoryError | OSError | NasError) or NO_MEMORY.search(str(error)):
        return error
    name = type(module).__name__
    if is_unsupported(error):
        return Unconvertible(f"{name} cannot be converted to {format}: {first_line(error)}")
    message = f"{type(error).__name__}: {first_line(error)}{_disk_full_hint()}"
    return ToolError(f"{name}: the converter to {format} failed: {message}")


def _disk_full_hint() -> str:
    """A note that the temporary folder is full, which converters often do not report; else an empty string."""
    with contextlib.suppress(OSError):
        folder = tempfile.gettempdir()
        free_mb = shutil.disk_usage(folder).free / 1e6
        if free_mb < 100:
            return f" (the temporary folder {folder} has {free_mb:.1f} MB free; set TMPDIR to another)"
    return ""
