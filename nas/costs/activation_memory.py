"""What an operator will need in memory, before it runs: a count of its tensors at the moment when most are alive."""

from __future__ import annotations

from nas.spaces import Operator


def activation_bytes_estimate(
    operator: Operator,
    shape: tuple[int, int, int, int, int],
    text_tokens: int = 0,
    itemsize: int = 4,
    fused: bool = True,
) -> int:
    """Peak bytes of an operator's activations in a forward pass without gradients, its input counted too.

    An estimate, not a measurement: convolution workspaces and the runtime's own buffers are not in it. It is meant
    for the question whether to run at all, such as `SelfAttention3D` at 64x64 on a runtime without fused attention.

    Args:
        operator: kind and hyper-parameters.
        shape: `(B, C, T, H, W)` of the input.
        text_tokens: length of the text.
        itemsize: bytes of an element.
        fused: whether the runtime's attention keeps its scores out of memory (torch; Core ML from iOS 18 on).
    """
    batch, channels, frames, height, width = shape
    places = height * width
    tokens = batch * frames * places
    elements = tokens * channels
    if operator.kind == "Conv1D":
        return itemsize * 4 * elements  # input, normalised, its activation or the output, their sum
    if operator.kind == "Conv3D":
        padded = elements * (frames + operator["kernel"] - 1) // frames
        return itemsize * (padded + 4 * elements)  # input, one shifted copy, two convolutions' results
    keys = _keys(operator, frames, places, text_tokens)
    scores = operator["heads"] * tokens * keys
    in_memory = not fused or (operator.kind == "CrossAttention1D" and operator["context"] == "text+anchor")
    # Attention: input, tokens, normalised; query, key and value (of anchor and text, where that is what is read);
    # the result. Feed-forward: input, tokens, normalised; 8 C of projection, 4 C of GELU, 4 C of their product.
    own_keys = tokens if operator.kind.startswith("Self") else batch * min(keys, places + text_tokens)
    attention = 5 * elements + 2 * own_keys * channels + (2 * scores if in_memory else 0)  # logits and their softmax
    feed_forward = 19 * elements
    return itemsize * max(attention, feed_forward)


def _keys(operator: Operator, frames: int, places: int, text_tokens: int) -> int:
    """How many keys a token attends to."""
    if operator.kind == "SelfAttention1D":
        return frames
    if operator.kind == "SelfAttention3D":
        return frames * places
    anchor = places if operator.kind == "CrossAttention3D" else 1
    return ("text" in operator["context"]) * text_tokens + ("anchor" in operator["context"]) * anchor
