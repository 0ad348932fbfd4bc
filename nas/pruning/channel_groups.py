"""Which channels of which weights are one and the same: the streams of the spatial backbone.

A stream is a run of channels that several weights share. Whatever adds to a residual stream or reads it must agree on
its channels; so must the two halves of a gated feed-forward, and the queries and keys of an attention. Streams are
named after the module that makes them::

    down_blocks.L                      a level's residual stream: its resnets and transformers add to it (of level 0
                                       conv_in too, of the last level the mid block too); every skip of the level is it
    down_blocks.L.downsamplers.0       what level L + 1 starts from; a skip as well
    up_blocks.K.resnets.J              what one up layer makes; its transformer adds to it
    up_blocks.K.upsamplers.0           what block K + 1 starts from
    RESNET.inner                       between the two convolutions of a resnet
    TRANSFORMER.tokens                 the residual stream of tokens inside a transformer
    TRANSFORMER...attnN.qk, attnN.v    queries and keys; values
    TRANSFORMER...ff                   hidden channels of the feed-forward, twice (value and gate) in its first weight
    time_embedding.linear_1, linear_2  inside the timestep embedding, and what the resnets read
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nas.spaces import Backbone

Axis = tuple[str, ...] | None
"""The streams along one axis of a weight, one after the other; None for channels that are no stream's."""


def weight_axes(config: Backbone) -> dict[str, tuple[Axis, ...]]:
    """Weight's name -> the streams along its first axis (outputs) and its second (inputs).

    Names are the state dict's of `UNet(config)`; every resnet is given a `conv_shortcut`, which some have not.
    """
    axes: dict[str, tuple[Axis, ...]] = {}

    def layer(name: str, out: Axis, into: Axis) -> None:
        axes[f"{name}.weight"], axes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, on: Axis) -> None:
        axes[f"{name}.weight"] = axes[f"{name}.bias"] = (on,)

    def resnet(name: str, into: Axis, out: Axis) -> None:
        inner = (f"{name}.inner",)
        norm(f"{name}.norm1", into)
        layer(f"{name}.conv1", inner, into)
        layer(f"{name}.time_emb_proj", inner, ("time_embedding.linear_2",))
        norm(f"{name}.norm2", inner)
        layer(f"{name}.conv2", out, inner)
        layer(f"{name}.conv_shortcut", out, into)

    def transformer(name: str, on: Axis) -> None:
        tokens, block = (f"{name}.tokens",), f"{name}.transformer_blocks.0"
        norm(f"{name}.norm", on)
        layer(f"{name}.proj_in", tokens, on)
        for attention, context in ((f"{block}.attn1", tokens), (f"{block}.attn2", None)):
            axes[f"{attention}.to_q.weight"] = ((f"{attention}.qk",), tokens)
            axes[f"{attention}.to_k.weight"] = ((f"{attention}.qk",), context)
            axes[f"{attention}.to_v.weight"] = ((f"{attention}.v",), context)
            layer(f"{attention}.to_out.0", tokens, (f"{attention}.v",))
        hidden = (f"{block}.ff",)
        layer(f"{block}.ff.net.0.proj", hidden * 2, tokens)
        layer(f"{block}.ff.net.2", tokens, hidden)
        for number in (1, 2, 3):
            norm(f"{block}.norm{number}", tokens)
        layer(f"{name}.proj_out", on, tokens)

    layer("time_embedding.linear_1", ("time_embedding.linear_1",), None)
    layer("time_embedding.linear_2", ("time_embedding.linear_2",), ("time_embedding.linear_1",))
    layer("text_embedding.linear", ("time_embedding.linear_2",), None)
    made: dict[str, tuple[str, ...]] = {}
    into: tuple[str, ...] = ()
    for this in config.layers():
        side, _, level = this.block.partition(".")
        if this.kind == "conv_in":
            out = ("down_blocks.0",)
            layer("conv_in", out, None)
        elif this.kind == "resnet":
            out = {"down": (f"down_blocks.{level}",), "mid": into, "up": (this.name,)}[side]
            resnet(this.name, into + made.get(this.skip, ()), out)
        elif this.kind == "transformer":
            out = into
            transformer(this.name, out)
        elif this.kind == "conv_out":
            norm("conv_norm_out", into)
            layer("conv_out", None, into)
        else:
            out = (this.name,)
            layer(f"{this.name}.conv", out, into)
        made[this.name] = into = out
    return axes


def stream_sizes(axes: Mapping[str, tuple[Axis, ...]], state: Mapping[str, Tensor]) -> dict[str, int]:
    """Stream -> number of channels, read off the weights (every stream has one that it does not share an axis of)."""
    return {
        axis[0]: state[name].shape[dim]
        for name, of_weight in axes.items()
        if name in state
        for dim, axis in enumerate(of_weight)
        if axis is not None and len(axis) == 1
    }
