"""Learner: one trained module with its optimizer, EMA weights, gradient accumulation and non-finite gradient guard."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas import distributed
from nas.errors import ConfigError, NasError
from nas.models import UNet
from nas.training.execution import ExecutionConfig, blocks, checkpoint_blocks, compile_blocks
from nas.training.optimization import Optimization, make_optimizer, moments, names_without_decay, set_rate
from nas.training.telemetry.throughput import Timer

Loss = Callable[[Any], Tensor | Mapping[str, Tensor]]
"""(batch) -> its loss, or a mapping with it as `loss` and other values for the history."""

MAX_SKIPPED_STEPS = 20
"""This many steps in a row without a finite gradient end the run."""


class Learner:
    """A module in training on this worker's device: optimizer, EMA of the weights, and skipping of non-finite gradients.

    Args:
        module: the module; its whole state dict is part of the training state.
        config: options of the optimizer.
        steps: length of the run, for the learning rate schedule.
        trained: whether to train the parameter of this name; the others are frozen.
        slow: whether the learning rate of the parameter of this name is multiplied by `slow_rate`.
        execution: accumulation, precision, checkpointing, compilation and sharding.
        use_ddp: whether to wrap the module in DDP when there are several workers; otherwise gradients are averaged
            after the backward pass. Denoisers and supernets are wrapped in FSDP2 instead if `execution.shard` is set.
        unused: whether some steps leave trained parameters without a gradient, which DDP must know.

    Attributes:
        model: the module in its distributed wrapper; losses call this one.
        timer: learns when the parts of a step begin.
    """

    def __init__(
        self,
        module: nn.Module,
        config: Optimization,
        steps: int,
        trained: Callable[[str], bool] = lambda name: True,
        slow: Callable[[str], bool] = lambda name: False,
        slow_rate: float = 1.0,
        execution: ExecutionConfig | None = None,
        use_ddp: bool = False,
        unused: bool = False,
    ) -> None:
        self.config, self.steps, self.execution = config.with_ema(steps), steps, execution or ExecutionConfig()
        self.device, self.timer = distributed.device(), Timer()
        self.module = module.to(self.device)
        names = {name for name, _ in module.named_parameters() if trained(name)}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in names)
        self._distribute(use_ddp, isinstance(module, UNet), unused)
        self.names = [name for name, _ in module.named_parameters() if name in names]
        parameters = dict(module.named_parameters())
        self.parameters = [parameters[name] for name in self.names]
        undecayed = names_without_decay(module) if config.weight_decay_on == "weights" else set()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in zip(self.names, self.parameters):
            kind = (slow_rate if slow(name) else 1.0, 0.0 if name in undecayed else config.weight_decay)
            groups.setdefault(kind, []).append(parameter)
        self.optimizer = make_optimizer(
            [{"params": groups[kind], "rate": kind[0], "weight_decay": kind[1]} for kind in sorted(groups)],
            config,
            self.execution.optimizer_bits,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.execution.precision == "fp16")
        self.ema = [p.detach().clone() for p in self.parameters]
        self.skipped = torch.zeros(2, dtype=torch.int64)  # steps skipped in a row, and in total

    def _distribute(self, use_ddp: bool, shards: bool, unused: bool) -> None:
        self._full_module = None
        self._average_gradients = not use_ddp
        self.model = self.module
        if shards and self.execution.shard and distributed.world_size() > 1:
            # FSDP2 cannot undo the sharding of a module, so keep its structure for `result`.
            self._full_module = copy.deepcopy(self.module).to("meta")
            self._average_gradients = False
        if self.execution.compile:
            compile_blocks(self.module)
        if self.execution.checkpointing:
            checkpoint_blocks(self.module)
        if self._full_module is not None:
            self.execution.check_workers(distributed.world_size())
            options = self.execution.shard_size, self.execution.gathered_dtype
            self.model = distributed.shard_fsdp(self.module, list(blocks(self.module)), *options)
        elif use_ddp:
            self.model = distributed.wrap_ddp(self.module, unused)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context for forward passes, with the precision of `execution`."""
        return self.execution.autocast(self.device)

    def train_step(self, loss: Loss, batch: Any, step: int) -> dict[str, float]:
        """One optimizer step on `loss(batch)`, a mean over the batch, accumulated as `execution` says.

        Args:
            loss: of a part of the batch: the loss, or a mapping with it as `loss` and other values for the history.
            batch: a data class with `split(parts)`, whose first field are the clips `(B, ...)`.

        Returns:
            The means over the parts of what `loss` gives, as numbers, and `grad_norm` as `update` returns it.
        """
        self.timer.begin(next(iter(vars(batch).values())))
        parts, means = batch.split(self.execution.accumulate), {}
        self.optimizer.zero_grad()
        for number, part in enumerate(parts, 1):
            self.timer.part("forward")
            last = number == len(parts)
            with contextlib.nullcontext() if last else distributed.no_gradient_sync(self.model):
                with self.autocast():
                    values = loss(part)
                    values = dict(values) if isinstance(values, Mapping) else {"loss": values}
                    values = {name: value / len(parts) for name, value in values.items()}
                self.timer.part("backward")
                self.scaler.scale(values["loss"]).backward()
            means = {name: means.get(name, 0.0) + value.detach() for name, value in values.items()}
        return _take_steps([(self, means)], step)[0]

    def update(self, loss: Tensor, step: int) -> float:
        """One optimizer step on `loss`; the step is skipped when the loss or its gradient is not finite.

        Returns:
            The norm of the gradient before clipping; NaN for a skipped step.

        Raises:
            NasError: `MAX_SKIPPED_STEPS` in a row were not finite.
        """
        return self.update_and_read({"loss": loss}, step)["grad_norm"]

    def update_and_read(self, values: Mapping[str, Tensor], step: int) -> dict[str, float]:
        """`update` on `values["loss"]`: all values as numbers, for which the host waits once, and `grad_norm`."""
        return update_together([(self, values)], step)[0]

    def _backward(self, loss: Tensor) -> None:
        self.timer.part("backward")
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()

    def _gradient_norm(self) -> Tensor:
        """The norm `()` of the gradient, which is averaged over the workers and clipped."""
        if self._average_gradients:
            distributed.average_gradients(self.parameters)
        self.timer.part("optimizer")
        self.scaler.unscale_(self.optimizer)
        return distributed.full_tensor(nn.utils.clip_grad_norm_(self.parameters, self.config.clip))

    def _take_step(self, row: dict[str, float], step: int) -> dict[str, float]:
        # The norm is the same on every worker, the loss is not: either all workers take the step, or none does.
        finite = distributed.mean_over_workers({"loss": row["loss"]})["loss"]
        if not math.isfinite(row["grad_norm"]) or not math.isfinite(finite):
            self.scaler.update()
            self.skipped += 1
            if self.skipped[0] >= MAX_SKIPPED_STEPS:
                raise NasError(f"{MAX_SKIPPED_STEPS} steps in a row gave no finite gradient; lower the learning rate")
            return {**row, "grad_norm": math.nan}
        self.skipped[0] = 0
        for group in self.optimizer.param_groups:
            set_rate(group, group["rate"] * self.config.rate(step, self.steps))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
        self.timer.part("other")
        return row

    @contextlib.contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Inside, the module has the EMA weights."""
        self._swap_ema()
        try:
            yield
        finally:
            self._swap_ema()

    @torch.no_grad()
    def _swap_ema(self) -> None:
        for parameter, mean in zip(self.parameters, self.ema):
            current = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(current)

    def ema_state(self) -> dict[str, Tensor]:
        """The module's state dict with the EMA weights, on rank 0; a collective call, {} on the other workers."""
        return distributed.gather({**self.module.state_dict(), **dict(zip(self.names, self.ema))})

    def result(self) -> nn.Module:
        """The unsharded module with the EMA weights, at the end of training. A collective call.

        Of a module that was sharded, the other workers than rank 0 get one without weights, on the meta device.
        """
        if self._full_module is None:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.ema)
            return self.module
        state = self.ema_state()
        if state:
            self._full_module.load_state_dict(state, assign=True)
            self._full_module.to(self.device)
        return self._full_module

    def state(self) -> dict[str, Tensor]:
        """All that is needed to resume training: the tensors in use, of at least one dimension, sharded as they are."""
        state = {f"weights.{name}": value for name, value in self.module.state_dict().items()}
        state |= {f"mean.{name}": value for name, value in zip(self.names, self.ema)}
        for name, parameter in zip(self.names, self.parameters):
            state |= {f"{kind}:{name}": value for kind, value in moments(self.optimizer, parameter).items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler"] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]], dtype=torch.float64)
        state["bad"] = self.skipped
        return {name: value if value.ndim else value.view(1) for name, value in state.items()}

    def load(self, names: Collection[str], fill: Callable[[Mapping[str, Tensor]], None]) -> None:
        """Restore a saved state.

        Args:
            names: the keys of the saved state.
            fill: copies the saved values of these names into the tensors of a mapping. A collective call.

        Raises:
            KeyError: it is the state of a module with other weights.
            ConfigError: its moments have another number of bits.
        """
        self._start_moments(names)
        state = self.state()
        if any(".codes:" in name for name in set(names) ^ set(state)):
            saved = 8 if any(".codes:" in name for name in names) else 32
            raise ConfigError(
                f"execution.optimizer_bits: the saved state has moments in {saved} bits; set it to {saved}"
            )
        different = {name for name in set(names) ^ set(state) if name.startswith("weights.")} or set(state) - set(names)
        if different:
            raise KeyError(min(different))
        fill(state)
        if self.scaler.is_enabled():
            scale, growth = state["scaler"].tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})

    def _start_moments(self, names: Collection[str]) -> None:
        """Let the optimizer have moments of the parameters of which a saved state has some."""
        started = {name.partition(":")[2] for name in names if ":" in name}
        for name, parameter in zip(self.names, self.parameters):
            parameter.grad = torch.zeros_like(parameter) if name in started else None
        for group in self.optimizer.param_groups:
            set_rate(group, 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def update_together(updates: Sequence[tuple[Learner, Mapping[str, Tensor]]], step: int) -> list[dict[str, float]]:
    """`Learner.update_and_read` of several learners, for whose values the host waits once."""
    for learner, values in updates:
        learner._backward(values["loss"])
    return _take_steps(updates, step)


def _take_steps(updates: Sequence[tuple[Learner, Mapping[str, Tensor]]], step: int) -> list[dict[str, float]]:
    values = [{**values, "grad_norm": learner._gradient_norm()} for learner, values in updates]
    numbers = iter(torch.stack([value.detach().float() for row in values for value in row.values()]).tolist())
    rows = [dict(zip(row, numbers)) for row in values]
    return [learner._take_step(row, step) for (learner, _), row in zip(updates, rows)]
