"""Learner: one trained module with its optimizer, EMA weights, gradient accumulation and non-finite gradient guard."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas import distributed
from nas.errors import ConfigError, NasError
from nas.models import UNet
from nas.ranges import check_range
from nas.training.execution import ExecutionConfig, blocks, checkpoint_blocks

MAX_SKIPPED_STEPS = 20
"""This many steps in a row without a finite gradient end the run."""


@dataclass(frozen=True)
class Optimization:
    """Options of AdamW, its learning rate schedule and the EMA of the weights.

    Attributes:
        lr: peak learning rate; it rises linearly over `warmup` steps and decays on a cosine to a twentieth of it.
        clip: maximum norm of the gradient.
        ema: decay of the exponential moving average of the weights; lower in the first steps.

    Raises:
        ConfigError: a number is not finite or out of range.
    """

    lr: float
    warmup: int = 20
    clip: float = 1.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.99

    def __post_init__(self) -> None:
        check_range(self, ("lr", "warmup", "weight_decay"), 0)
        check_range(self, ("clip",), 0, above=True)
        check_range(self, ("betas", "ema"), 0, 1)
        if 1 in self.betas:
            raise ConfigError("betas: must be below 1, or the moment estimates never change")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
        return self.lr * rise * fall


class Learner:
    """A module in training on this worker's device: optimizer, EMA of the weights, and skipping of non-finite gradients.

    Args:
        module: the module; its whole state dict is part of the training state.
        config: options of the optimizer.
        steps: length of the run, for the learning rate schedule.
        trained: whether to train the parameter of this name; the others are frozen.
        slow: whether the learning rate of the parameter of this name is multiplied by `slow_rate`.
        execution: accumulation, precision, checkpointing and sharding.
        use_ddp: whether to wrap the module in DDP when there are several workers; otherwise gradients are averaged
            after the backward pass. Denoisers and supernets are wrapped in FSDP2 instead if `execution.shard` is set.

    Attributes:
        model: the module in its distributed wrapper; losses call this one.
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
    ) -> None:
        self.config, self.steps, self.execution = config, steps, execution or ExecutionConfig()
        self.device = distributed.device()
        self.module = module.to(self.device)
        names = {name for name, _ in module.named_parameters() if trained(name)}
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in names)
        self._distribute(use_ddp, isinstance(module, UNet))
        self.names = [name for name, _ in module.named_parameters() if name in names]
        parameters = dict(module.named_parameters())
        self.parameters = [parameters[name] for name in self.names]
        groups = [(p, slow_rate if slow(name) else 1.0) for name, p in zip(self.names, self.parameters)]
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p, r in groups if r == rate], "rate": rate} for rate in sorted({r for _, r in groups})],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.execution.precision == "fp16")
        self.ema = [p.detach().clone() for p in self.parameters]
        self.skipped = torch.zeros(2, dtype=torch.int64)  # steps skipped in a row, and in total

    def _distribute(self, use_ddp: bool, shards: bool) -> None:
        self._full_module = None
        self._average_gradients = not use_ddp
        self.model = self.module
        if shards and self.execution.shard and distributed.world_size() > 1:
            # FSDP2 cannot undo the sharding of a module, so keep its structure for `result`.
            self._full_module = copy.deepcopy(self.module).to("meta")
            self._average_gradients = False
        if self.execution.checkpointing:
            checkpoint_blocks(self.module)
        if self._full_module is not None:
            self.model = distributed.shard_fsdp(self.module, list(blocks(self.module)))
        elif use_ddp:
            self.model = distributed.wrap_ddp(self.module)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context for forward passes, with the precision of `execution`."""
        return self.execution.autocast(self.device)

    def train_step(self, loss: Callable[[Any], Tensor], batch: Any, step: int) -> dict[str, float]:
        """One optimizer step on `loss(batch)`, a mean over the batch, accumulated as `execution` says.

        Args:
            batch: an object with `split(parts)`.

        Returns:
            `loss`, and `grad_norm` as `update` returns it.
        """
        parts, total = batch.split(self.execution.accumulate), 0.0
        self.optimizer.zero_grad()
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with contextlib.nullcontext() if last else distributed.no_gradient_sync(self.model):
                with self.autocast():
                    value = loss(part) / len(parts)
                self.scaler.scale(value).backward()
            total += value.detach()
        return {"loss": total.item(), "grad_norm": self._apply_gradients(total, step)}

    def update(self, loss: Tensor, step: int) -> float:
        """One optimizer step on `loss`; the step is skipped when the loss or its gradient is not finite.

        Returns:
            The norm of the gradient before clipping; NaN for a skipped step.

        Raises:
            NasError: `MAX_SKIPPED_STEPS` in a row were not finite.
        """
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        return self._apply_gradients(loss, step)

    def _apply_gradients(self, loss: Tensor, step: int) -> float:
        if self._average_gradients:
            distributed.average_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = distributed.full_tensor(nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
        # The norm is the same on every worker, the loss is not: either all workers take the step, or none does.
        finite = distributed.mean_over_workers({"loss": loss.item()})["loss"]
        if not torch.isfinite(norm) or not math.isfinite(finite):
            self.scaler.update()
            self.skipped += 1
            if self.skipped[0] >= MAX_SKIPPED_STEPS:
                raise NasError(f"{MAX_SKIPPED_STEPS} steps in a row gave no finite gradient; lower the learning rate")
            return math.nan
        self.skipped[0] = 0
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.config.rate(step, self.steps)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        decay = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
        return norm.item()

    def ema_state(self) -> dict[str, Tensor]:
        """The module's state dict with the EMA weights. A collective call: all workers must make it."""
        state = {**self.module.state_dict(), **dict(zip(self.names, self.ema))}
        return {name: distributed.full_tensor(value) for name, value in state.items()}

    def result(self) -> nn.Module:
        """The unsharded module with the EMA weights, at the end of training. A collective call."""
        if self._full_module is None:
            self.module.load_state_dict(self.ema_state())
            return self.module
        self._full_module.load_state_dict(self.ema_state(), assign=True)
        return self._full_module

    def state(self) -> dict[str, Tensor]:
        """All that is needed to resume training. A collective call."""
        state = {f"weights.{name}": value for name, value in self.module.state_dict().items()}
        state |= {f"mean.{name}": value for name, value in zip(self.names, self.ema)}
        for name, parameter in zip(self.names, self.parameters):
            moments = self.optimizer.state.get(parameter, {})
            state |= {f"{kind}:{name}": value for kind, value in moments.items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler"] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]], dtype=torch.float64)
        return {name: distributed.full_tensor(value) for name, value in state.items()} | {"bad": self.skipped}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        prefix = "weights."
        weights = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        own = self.module.state_dict()
        if self._full_module is None:
            self.module.load_state_dict(weights)
        else:
            for name in own:
                distributed.copy_full_tensor(own[name], weights[name])
        for name, parameter, mean in zip(self.names, self.parameters, self.ema):
            distributed.copy_full_tensor(mean, state[f"mean.{name}"])
            moments = {}
            for kind in ("exp_avg", "exp_avg_sq"):
                if f"{kind}:{name}" in state:
                    moments[kind] = torch.zeros_like(parameter)
                    distributed.copy_full_tensor(moments[kind], state[f"{kind}:{name}"])
            if moments:
                self.optimizer.state[parameter] = {"step": state[f"step:{name}"].to(self.device), **moments}
        if self.scaler.is_enabled():
            scale, growth = state["scaler"].tolist()
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale, "_growth_tracker": int(growth)})
        self.skipped.copy_(state["bad"])
