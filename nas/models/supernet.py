"""The supernet: the backbone with every operator in every slot; all architectures share its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nas.models.denoiser import Denoiser, backbone_arguments, layers_by_site, module_name, run
from nas.models.operators import build_operator
from nas.models.shared_prefix import run_paths
from nas.models.unet import UNet
from nas.spaces import NONE, Architecture, SearchSpace


class Supernet(UNet):
    """All architectures of a search space in one module.

    State-dict keys are the denoiser's, with the choice after the slot: `temporal.down_0_0_0.Conv1D.conv.weight`.

    Attributes:
        space: the search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(*backbone_arguments(space))
        self.space = space
        self.temporal = nn.ModuleDict()
        for slot, choices in space.slots.items():
            channels = space.sites[space.site_name(slot)].channels
            operators = {choice: space.operators[choice] for choice in choices if choice != NONE}
            self.temporal[module_name(slot)] = nn.ModuleDict(
                {module_name(c): build_operator(o, channels, space.text.dim) for c, o in operators.items()}
            )

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, arch: Architecture) -> Tensor:
        """One denoising step along one path: see `Denoiser.forward`. Other paths are not run and get no gradients.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        return run(self, x, timestep, context, self.path(arch))

    def forward_many(
        self, x: Tensor, timestep: Tensor, context: Tensor, archs: Sequence[Architecture]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Like `forward` for each architecture, bit for bit; layers that several of them begin with are run once.

        Yields:
            Numbers of equal architectures and their prediction, in no particular order.
        """
        return run_paths(self, x, timestep, context, [self.path(arch) for arch in archs])

    def path(self, arch: Architecture) -> dict[str, list[nn.Module]]:
        """The temporal layers of an architecture by site, in execution order.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        return {
            site: [self.temporal[slot][module_name(choice)] for slot, choice in names]
            for site, names in layers_by_site(self.space, self.space.check(arch)).items()
        }

    def extract(self, arch: Architecture) -> Denoiser:
        """A plain denoiser with copies of the weights on this path; its output is bitwise that of the path.

        Raises:
            SpaceError: the architecture belongs to another space.
        """
        arch = self.space.check(arch)
        choices = {module_name(slot): module_name(choice) for slot, choice in arch.items}
        state = {}
        for key, value in self.state_dict().items():
            if key.startswith("temporal."):
                _, slot, choice, rest = key.split(".", 3)
                if choices[slot] != choice:
                    continue
                key = f"temporal.{slot}.{rest}"
            state[key] = value.clone()
        with torch.device("meta"):
            denoiser = Denoiser(self.space, arch)
        denoiser.load_state_dict(state, assign=True)
        return denoiser.train(self.training)

    def spatial_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the backbone, without the temporal layers."""
        return (p for name, p in self.named_parameters() if not name.startswith("temporal."))

    def temporal_parameters(self, arch: Architecture | None = None) -> Iterator[nn.Parameter]:
        """Parameters of the temporal layers: of all slots and choices, or of one path."""
        if arch is None:
            return self.temporal.parameters()
        layers = layers_by_site(self.space, self.space.check(arch)).values()
        return (
            p
            for names in layers
            for slot, choice in names
            for p in self.temporal[slot][module_name(choice)].parameters()
        )
