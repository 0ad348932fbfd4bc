"""Denoising steps of many paths through one UNet, in which layers that several paths begin with are run once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nas.models.denoiser import temporal_step
from nas.models.layers import to_frames, to_video
from nas.models.unet import UNet
from nas.spaces.topology import Layer

Path = Mapping[str, Sequence[nn.Module]]
"""Temporal layers by site."""


@dataclass
class _Branch:
    """Paths that agree on everything up to and including the temporal layers of one site.

    Attributes:
        segment: of the UNet; it ends with that site.
        x: the features `(B*T, C, H, W)` before the temporal layers.
        skips: outputs that later layers take.
        members: the numbers of the paths.
    """

    segment: int
    x: Tensor
    skips: dict[str, Tensor]
    members: list[int]


def run_paths(
    unet: UNet, x: Tensor, timestep: Tensor, context: Tensor, paths: Sequence[Path]
) -> Iterator[tuple[list[int], Tensor]]:
    """Like `nas.models.denoiser.run` for each path, bit for bit; equal paths have one result.

    Depth first, so that only the features at sites where paths part are kept.

    Args:
        x, timestep, context: as of `Denoiser.forward`.
        paths: in any order.

    Yields:
        Numbers of equal paths and their prediction `(B, C, T, H, W)`, in no particular order.
    """
    frames, context = x.shape[2], unet.read_text(context)
    time, segments = unet.embed_time(timestep, context), _segments(unet.topology)

    def advance(segment: int, x: Tensor, skips: dict[str, Tensor], members: list[int]) -> list[_Branch]:
        """Run the spatial layers of a segment, and part the paths that differ at its end."""
        for number, layer in enumerate(segments[segment], start=1):
            x = unet.run_layer(layer, x, skips, time, context)
            if layer.is_skip and number < len(segments[segment]):
                skips[layer.name] = x
        site = segments[segment][-1].site
        groups: dict[tuple[nn.Module, ...], list[int]] = {}
        for member in members:
            layers = tuple(paths[member].get(site, ())) if frames > 1 else ()  # images skip temporal layers
            groups.setdefault(layers, []).append(member)
        return [_Branch(segment, x, skips, group) for group in groups.values()]

    branches = advance(0, to_frames(x), {}, list(range(len(paths))))
    while branches:
        branch = branches.pop()
        last, members, skips = segments[branch.segment][-1], branch.members, dict(branch.skips)
        x = temporal_step(paths[members[0]], frames, context)(last.site, branch.x)
        if last.is_skip:
            skips[last.name] = x
        segment = branch.segment + 1
        del branch  # the features before the site are kept by branches alone that part there
        if segment == len(segments):
            yield members, to_video(x, frames)
        else:
            branches += advance(segment, x, skips, members)


def _segments(topology: Iterable[Layer]) -> list[list[Layer]]:
    """The layers up to and including each site, and those after the last one."""
    sites_before = itertools.accumulate((bool(layer.site) for layer in topology), initial=0)
    numbered = zip(sites_before, topology)
    return [[layer for _, layer in group] for _, group in itertools.groupby(numbered, key=lambda pair: pair[0])]
