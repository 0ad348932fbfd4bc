"""The denoiser: the UNet backbone with the temporal layers of one architecture in its slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from nas.errors import SpaceError
from nas.models.layers import to_frames, to_video
from nas.models.operators import build_operator
from nas.models.unet import UNet
from nas.spaces import NONE, Architecture, SearchSpace


class Denoiser(UNet):
    """The model of one architecture; created by `build` or `Supernet.extract`.

    State-dict keys are diffusers' for the spatial part, and `temporal.<slot>...` (`temporal.down_0_0_0...` for slot
    `down.0.0/0`) for the rest.

    Attributes:
        space, arch: the search space and the architecture.
    """

    def __init__(self, space: SearchSpace, arch: Architecture) -> None:
        super().__init__(*backbone_arguments(space))
        self.space, self.arch = space, space.check(arch)
        self.temporal = nn.ModuleDict()
        for slot, choice in self.arch.items:
            if choice != NONE:
                channels = space.sites[space.site_name(slot)].channels
                self.temporal[module_name(slot)] = build_operator(space.operators[choice], channels, space.text.dim)
        self._layers_at = layers_by_site(space, self.arch)

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """One denoising step.

        Args:
            x: noisy latents `(B, C, T, H, W)`. With T=1 they are images: the temporal layers are skipped.
            timestep: `(B,)` or `()`, from 0 to 1000 as in diffusers, not necessarily integers.
            context: text `(B, tokens, dim)`.

        Returns:
            The prediction `(B, C, T, H, W)`.
        """
        return run(self, x, timestep, context, self.layers())

    def layers(self) -> dict[str, list[nn.Module]]:
        """The temporal layers by site, in execution order."""
        return {
            site: [self.temporal[name] for name, _ in names if name in self.temporal]
            for site, names in self._layers_at.items()
        }


def build(space: SearchSpace, arch: Architecture) -> Denoiser:
    """The denoiser of an architecture, randomly initialized; its temporal layers are the identity until trained.

    Under `torch.device("meta")` it allocates no memory.

    Raises:
        SpaceError: the space is cost-only, or the architecture belongs to another space.
    """
    return Denoiser(space, arch)


def run(unet: UNet, x: Tensor, timestep: Tensor, context: Tensor, layers: Mapping[str, Sequence[nn.Module]]) -> Tensor:
    """Denoising step of a UNet with the given temporal layers by site; see `Denoiser.forward`."""
    frames, context = x.shape[2], unet.read_text(context)
    after_site = temporal_step(layers, frames, context)
    return to_video(unet.denoise(to_frames(x), timestep, context, after_site), frames)


def temporal_step(layers: Mapping[str, Sequence[nn.Module]], frames: int, context: Tensor):
    """Callback for the UNet that applies the layers of a site to features `(B*T, C, H, W)`; the identity when T=1."""

    def after_site(site: str, features: Tensor) -> Tensor:
        at_site = layers.get(site)
        if not at_site or frames == 1:
            return features
        video = to_video(features, frames)
        for layer in at_site:
            video = layer(video, context)
        return to_frames(video).contiguous()  # so that the next block always gets the same memory layout

    return after_site


def backbone_arguments(space: SearchSpace) -> tuple:
    """The arguments of `UNet` for a search space.

    Raises:
        SpaceError: the space is cost-only.
    """
    if space.backbone is None:
        raise SpaceError(f"search space '{space.name}' is cost-only: it has no backbone to build a model from")
    return space.backbone, space.latent.channels, space.text.dim


def layers_by_site(space: SearchSpace, arch: Architecture) -> dict[str, list[tuple[str, str]]]:
    """`(module name of the slot, choice)` of each slot that is not `none`, by site, in execution order."""
    layers: dict[str, list[tuple[str, str]]] = {}
    for slot, choice in arch.items:
        if choice != NONE:
            layers.setdefault(space.site_name(slot), []).append((module_name(slot), choice))
    return layers


def module_name(name: str) -> str:
    """A slot or a choice as a valid module name: `down.0.0/1` -> `down_0_0_1`."""
    return name.replace(".", "_").replace("/", "_")
