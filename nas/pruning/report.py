"""Pruning report: layers, channels, parameters and multiply-adds before and after, block by block, and latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.models.layers import Upsampler
from nas.models.unet import Downsampler, ResnetBlock, SpatialTransformer, UNet
from nas.pruning.blocks import RemovedLayers
from nas.spaces import Latent, Text


@dataclass(frozen=True)
class BlockReport:
    """One block before and after: `down.L`, `mid`, `up.L` (L counts levels, high resolution first) or `ends` (all else).

    `channels` are the level's, `macs` multiply-adds of one step on one latent frame; after removal all are 0.
    """

    block: str
    channels_before: int
    channels_after: int
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class PruningReport:
    """The result of pruning, block by block.

    Attributes:
        removed: names of removed resnets, transformers and resamplers, as in the original's state dict.
        blocks: one per block; their sum is the whole UNet.
        latency_before_ms, latency_after_ms: of the whole backbone, from a lookup table; None if it has no such row.
    """

    removed: tuple[str, ...]
    blocks: tuple[BlockReport, ...]
    latency_before_ms: float | None = None
    latency_after_ms: float | None = None

    def total(self, field: str) -> int:
        """The sum of a field of the blocks, such as `params_after`."""
        return sum(getattr(block, field) for block in self.blocks)

    def frame(self) -> Any:
        """The blocks as a pandas.DataFrame, one row each."""
        import pandas as pd

        return pd.DataFrame([asdict(block) for block in self.blocks])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        totals = {f"{kind}_{when}": self.total(f"{kind}_{when}") for kind in ("params", "macs") for when in WHEN}
        return totals | asdict(self)

    def text(self) -> str:
        """The report as a plain-text table."""
        lines = [f"{'block':<8}{'channels':>14}{'parameters':>20}{'share':>8}{'GMACs':>18}{'share':>8}"]
        whole = BlockReport(
            "all", 0, 0, *(self.total(f"{kind}_{when}") for kind in ("params", "macs") for when in WHEN)
        )
        for block in (*self.blocks, whole):
            channels = f"{block.channels_before} > {block.channels_after}" if block.channels_before else ""
            params = f"{block.params_before / 1e6:.1f}M > {block.params_after / 1e6:.1f}M"
            macs = f"{block.macs_before / 1e9:.2f} > {block.macs_after / 1e9:.2f}"
            shares = [f"{after / before:.0%}" if before else "" for before, after in _pairs(block)]
            lines.append(f"{block.block:<8}{channels:>14}{params:>20}{shares[0]:>8}{macs:>18}{shares[1]:>8}")
        for when, latency in (("before", self.latency_before_ms), ("after", self.latency_after_ms)):
            if latency is not None:
                lines.append(f"latency {when}: {latency:.1f} ms, from the lookup table")
        lines.append(f"removed: {', '.join(self.removed) or 'no layers'}")
        return "\n".join(lines)


WHEN = ("before", "after")


def report(before: UNet, after: UNet, removed: RemovedLayers, latent: Latent, text: Text) -> PruningReport:
    """Compare a UNet before and after `prune`.

    Multiply-adds are counted by torch while both models run on the meta device, which computes and allocates nothing.

    Args:
        latent, text: shapes of the inputs; one frame of the latent is counted.
    """
    counts = [_counts(unet, latent, text) for unet in (before, after)]
    channels = [unet.config.channels for unet in (before, after)]
    blocks = []
    for name in counts[0]:
        level = int(name.partition(".")[2] or len(channels[0]) - 1)
        widths = [
            widths[level] if name in by_block and level < len(widths) else 0
            for widths, by_block in zip(channels, counts)
        ]
        widths = [0, 0] if name == "ends" else widths
        params, macs = zip(*(by_block.get(name, (0, 0)) for by_block in counts))
        blocks.append(BlockReport(name, *widths, *params, *macs))
    return PruningReport(removed.modules, tuple(blocks))


def _counts(unet: UNet, latent: Latent, text: Text) -> dict[str, tuple[int, int]]:
    """Parameters and multiply-adds by block."""
    with torch.device("meta"):
        meta = UNet(unet.config, unet.conv_in.in_channels, text.dim).eval()
        inputs = (
            torch.empty(1, unet.conv_in.in_channels, latent.height, latent.width),
            torch.empty(1),
            torch.empty(1, text.tokens, text.dim),
        )
        params: dict[str, int] = {}
        for name, parameter in meta.named_parameters():
            block = _block(name, meta)
            params[block] = params.get(block, 0) + parameter.numel()
        with torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
            meta(*inputs)
    macs = dict.fromkeys(params, 0)
    by_module = counter.get_flop_counts()
    root = next(name for name in by_module if name.count(".") == 0 and name != "Global")
    for name, module in meta.named_modules():
        if isinstance(module, ResnetBlock | SpatialTransformer | Downsampler | Upsampler):
            macs[_block(name, meta)] += sum(by_module[f"{root}.{name}"].values()) // 2
    macs["ends"] = counter.get_total_flops() // 2 - sum(macs.values())
    return {block: (params[block], macs[block]) for block in params}


def _block(name: str, unet: UNet) -> str:
    """The block of a parameter or module; `ends` if it is in none."""
    layers = (layer for layer in unet.topology if name == layer.name or name.startswith(f"{layer.name}."))
    return next((layer.block for layer in layers if layer.block), "ends")


def _pairs(block: BlockReport) -> tuple[tuple[int, int], tuple[int, int]]:
    return (block.params_before, block.params_after), (block.macs_before, block.macs_after)
