"""Zero-cost proxies: scores of untrained architectures from one backward pass. Torch loads when one is called."""

from __future__ import annotations

from dataclasses import dataclass

from nas.spaces import Architecture, SearchSpace


@dataclass(frozen=True)
class GradNorm:
    """The gradient norm at initialization (`grad_norm` of Abdelfattah et al., ICLR 2021), over the temporal layers.

    The loss is the mean squared error of the predicted velocity on Gaussian latents, noise and text: the same ones for
    every architecture and from the same seed of the weights, so that architectures differ by their layers alone. Temporal
    layers have zero output at initialization, so the norm measures how strongly the loss depends on each layer. A proxy
    ranks only roughly; score the best architectures with another evaluator (`nas.search.reevaluate_top_k`).

    Attributes:
        space: with a backbone.
        seed: of the weights and the batch.
    """

    space: SearchSpace
    seed: int = 0

    def __call__(self, arch: Architecture) -> float:
        """
        Raises:
            SpaceError: the space is cost-only, or the architecture belongs to another one.
        """
        import torch

        from nas import distributed
        from nas.models import build

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            latents, noise = torch.randn(2, *self.space.input_shape())
            context = torch.randn(self.space.context_shape())
            torch.manual_seed(self.seed)
            model = build(self.space, arch)
        model.to(distributed.device())  # after the weights are drawn, which are the same on every device
        latents, noise, context = (values.to(distributed.device()) for values in (latents, noise, context))
        predicted = model((latents + noise) / 2, latents.new_full((len(latents),), 500.0), context)
        torch.nn.functional.mse_loss(predicted, noise - latents).backward()
        temporal = [p.grad.square().sum() for p in model.temporal.parameters() if p.grad is not None]
        return float(torch.stack(temporal).sum().sqrt()) if temporal else 0.0
