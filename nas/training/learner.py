"""A module being trained: optimiser, mean of the weights, guard against bad gradients, and all that goes on with it."""

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
"""So many steps in a row without a finite gradient end the run."""


@dataclass(frozen=True)
class Optimization:
    """How a module's weights follow their gradients.

    Attributes:
        lr: peak learning rate of AdamW; it rises over `warmup` steps and falls on a cosine to a twentieth at the end.
        clip: largest norm of the gradient.
        ema: decay of the running mean of the weights, lower in the first steps.

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
            raise ConfigError("betas: must be below 1, or the moments never move")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, ... of `steps`."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
        return self.lr * rise * fall


class Learner:
    """A module being trained: its optimiser, the mean of its weights, and the guard against bad gradients.

    It is moved to this worker's device.

    Args:
        module: all of its state is saved.
        config: the optimisation.
        steps: length of the run, for the learning rate.
        trained: names of the parameters to train; None for all. The others take no gradient.
        slow: parameters whose learning rate is multiplied by `slow_rate`.
        execution: accumulation, precision, checkpointing and sharding.
        use_ddp: whether to wrap the module in DDP when there are several workers; otherwise gradients are averaged
            after the backward pass. Denoisers and supernets are wrapped in FSDP2 instead if `execution.shard` is set.

    Attributes:
        model: what losses call instead of the module.
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
        self.skipped = torch.zeros(2, dtype=torch.int64)  # skipped in a row, skipped in all

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
        """The precision that forward passes run in."""
        return self.execution.autocast(self.device)

    def train_step(self, loss: Callable[[Any], Tensor], batch: Any, step: int) -> dict[str, float]:
        """One step down the gradient of `loss(batch)`, a mean over the batch, in as many parts as `compute` says.

        Args:
            batch: has `split(parts)`.

        Returns:
            `loss` and `grad_norm`, as `update`.
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
        """One step down the gradient of `loss`; nothing when it is not finite.

        Returns:
            The norm of the gradient before clipping.

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
        # The norm is the same on every worker, the loss is not: all must take the step, or none.
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
        """The module's state with the mean of its weights. Every worker must ask."""
        state = {**self.module.state_dict(), **dict(zip(self.names, self.ema))}
        return {name: distributed.full_tensor(value) for name, value in state.items()}

    def result(self) -> nn.Module:
        """The module, whole, with the mean of its weights. Every worker must ask; the training is over."""
        if self._full_module is None:
            self.module.load_state_dict(self.ema_state())
            return self.module
        self._full_module.load_state_dict(self.ema_state(), assign=True)
        return self._full_module

    def state(self) -> dict[str, Tensor]:
        """All that goes on with the training. Every worker must ask."""
        found = {f"weights.{name}": value for name, value in self.module.state_dict().items()}
        found |= {f"mean.{name}": value for name, value in zip(self.names, self.ema)}
        for name, parameter in zip(self.names, self.parameters):
            moments = self.optimizer.state.get(parameter, {})
            found |= {f"{kind}:{name}": value for kind, value in moments.items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            found["scaler"] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]], dtype=torch.float64)
        return {name: distributed.full_tensor(value) for name, value in found.items()} | {"bad": self.skipped}

    def load(self, state: Mapping[str, Tensor]) -> None:
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
