"""A pretended accelerator, `pretended:0`: its tensors compute on the CPU, but do not mix with tensors of the CPU.

Torch registers such a device once per process and takes it for the machine's accelerator from then on, so only a process
of its own imports this module (`tests/training/test_accelerator.py` starts one).

    with Recorder() as recorder:      # tensors of the device exist only inside
        model.to(DEVICE)

It is as strict as a GPU: an operation on tensors of both devices raises `MixedDevices`, and `.numpy()` refuses. The
recorder lists what a GPU would make slow: where the host waits for the device, copies to it, and matrix products and
convolutions that run on the CPU all the same. There is no autocast.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
from torch.utils.flop_counter import flop_registry

import nas

aten = torch.ops.aten
COPIES = {aten._to_copy, aten.copy_, aten._copy_from, aten.lift_fresh}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}
"""Operations whose result the host, or the size of their output, depends on."""
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Their index may lie on the CPU, from which it is copied."""
RESHAPES_IN_PLACE = {aten.resize_, aten.set_, aten.t_, aten.transpose_, aten.squeeze_, aten.unsqueeze_}


class _Module(_DummyBackendModule):
    """What torch asks of `torch.pretended`."""

    def device_count(self) -> int:
        return 1

    def get_rng_state(self, device: Any = 0) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
        pass


_setup_privateuseone_for_python_backend("pretended", _Module())
DEVICE = torch.device("pretended", 0)
# A device's own thread for the backward pass would know nothing of the recorder.
torch.autograd.set_multithreading_enabled(False)


class MixedDevices(RuntimeError):
    """Tensors of the device and of the CPU in one operation."""


class DeviceTensor(torch.Tensor):
    """A tensor of the device; `values` are its numbers, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> DeviceTensor:
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        with torch.inference_mode(False):  # a view of a weight, which is no inference tensor, must not be one
            made = torch.Tensor._make_wrapper_subclass(cls, values.size(), dtype=values.dtype, device=DEVICE, **layout)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: dict) -> DeviceTensor:
        copied = DeviceTensor(self.values.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return copied

    def __repr__(self) -> str:
        return f"DeviceTensor({self.values})"


class Recorder(TorchDispatchMode):
    """Makes the device available, and counts by place (file and line of nas) and operation.

    Attributes:
        waits: where the host waits for the device.
        uploads: copies from the host to the device.
        host_work: matrix products, convolutions and attention on the CPU.
        device_work: the same on the device.
    """

    current: Recorder | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.uploads, self.host_work, self.device_work = (Counter() for _ in range(4))

    def clear(self) -> None:
        for counter in (self.waits, self.uploads, self.host_work, self.device_work):
            counter.clear()

    def __enter__(self) -> Recorder:
        Recorder.current = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Recorder.current = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})

    def record(self, func: Any, ours: list, plain: list, on_device: bool) -> None:
        """Count an operation on tensors of the device and of the CPU, whose result is `on_device`."""
        packet = func.overloadpacket
        plain = [tensor for tensor in plain if tensor.device.type == "cpu"]  # not of models that are only counted
        masks = packet in INDEXING and any(t.dtype in (torch.bool, torch.uint8) for t in (*ours, *plain))
        counters = []
        if packet in flop_registry and (ours or plain):
            counters.append(self.device_work if ours else self.host_work)
        if ours and (not on_device or packet in WAITS or masks):
            counters.append(self.waits)
        if on_device and plain and (packet in COPIES or any(t.dim() for t in plain)):
            counters.append(self.uploads)
        for counter in counters:
            counter[f"{_place()} {func._schema.name.removeprefix('aten::')}"] += 1


_NAS = str(Path(nas.__file__).parent)


def _place() -> str:
    """The innermost line of nas that is running, such as `training/learner.py:130`, but not of its counter of operations."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_NAS) and frame.f_code.co_name != "__torch_dispatch__":
            return f"{frame.f_code.co_filename[len(_NAS) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside"


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation of torch, on the numbers of the tensors."""
    packet, leaves = func.overloadpacket, list(_leaves((*args, *kwargs.values())))
    ours = [leaf for leaf in leaves if isinstance(leaf, DeviceTensor)]
    plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, DeviceTensor)]
    if packet is aten._has_compatible_shallow_copy_type:  # asked when a module is moved in inference mode
        return not (ours and plain)
    on_device = _result_on_device(packet, args, kwargs.get("device"), bool(ours))
    if ours and packet not in COPIES:
        _check_devices(func, plain, packet in INDEXING and isinstance(args[0], DeviceTensor))
        if packet in RESHAPES_IN_PLACE:
            raise NotImplementedError(f"{func} of a pretended tensor")
    if Recorder.current is not None:
        Recorder.current.record(func, ours, plain, on_device)
    wrappers = {id(tensor.values): tensor for tensor in ours}  # an operation in place returns its own argument
    if ours:
        args = tuple(_mapped(_values, value) for value in args)
        kwargs = {name: _mapped(_values, value) for name, value in kwargs.items()}
    if on_device and kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*args, **kwargs)

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return wrappers[id(leaf)] if id(leaf) in wrappers else DeviceTensor(leaf)

    return _mapped(wrap, result) if on_device else result


def _leaves(values: Iterable) -> Iterator:
    """The arguments of an operation and what its lists hold, which hold no lists; quicker than torch's `tree_leaves`."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    return type(value)([change(leaf) for leaf in value]) if isinstance(value, list | tuple) else change(value)


def _values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, DeviceTensor) else leaf


def _result_on_device(packet: Any, args: tuple, device: Any, ours: bool) -> bool:
    if packet is aten.copy_:
        return isinstance(args[0], DeviceTensor)
    return ours if device is None else torch.device(device).type == DEVICE.type


def _check_devices(func: Any, plain: list[torch.Tensor], indexing: bool) -> None:
    """
    Raises:
        MixedDevices: a tensor of the CPU with dimensions that is no index.
    """
    for tensor in plain:
        index = indexing and not tensor.is_floating_point()
        if tensor.dim() and not index:
            raise MixedDevices(f"{func}: tensors of the CPU {tuple(tensor.shape)} and of the device, at {_place()}")


# What torch calls past the recorder, as `torch.tensor([1.0], device=DEVICE)` does.
_LIBRARY = torch.library.Library("aten", "IMPL", "PrivateUse1")


def _empty(size: Any, dtype: Any = None, **_: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _run(aten.copy_.default, (target, source, non_blocking), {})
    return target


for _name, _function in {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy_from,
}.items():
    _LIBRARY.impl(_name, _function)
