"""The operators against plain transcriptions of their definitions, one query at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from nas.models import build_operator
from nas.spaces import Operator, operator_kinds, operator_spec
from nas.spaces.operators import CONTEXTS
from nas.testing.operators import OperatorTestCase

C, D, HEADS = 12, 10, 2
CROSS = [(kind, context) for kind in ("CrossAttention1D", "CrossAttention3D") for context in CONTEXTS]
ALL = [(kind, None) for kind in operator_kinds() if not kind.startswith("Cross")] + CROSS


def described(kind, context=None, kernel=3):
    offered = {"heads": HEADS, "kernel": kernel, "context": context}
    return Operator(kind, tuple((k, offered[k]) for k in operator_spec(kind).options))


def operator(kind, context=None, kernel=3):
    return build_operator(described(kind, context, kernel), C, D)


class TestConformance(OperatorTestCase):
    @pytest.fixture(
        params=[*ALL, ("Conv1D", None, 1), ("Conv3D", None, 5)], ids=lambda which: "-".join(map(str, which))
    )
    def operator(self, request):
        return described(*request.param)


# -- definitions, written out --------------------------------------------------------------------------------------


def wave(position, channels):
    half = math.ceil(channels / 2)
    angles = [position / 10000 ** (i / half) for i in range(half)]
    return torch.tensor(([math.cos(a) for a in angles] + [math.sin(a) for a in angles])[:channels])


def encoding(kind, t, y, x):
    if kind.endswith("1D"):
        return wave(t, C)
    return torch.cat([wave(t, C // 2), wave(y, C // 4), wave(x, C // 4)])


def attend_one(query, keys, values):
    """One token's attention, head by head."""
    outputs = []
    for q, k, v in zip(query.chunk(HEADS), torch.stack(keys).chunk(HEADS, 1), torch.stack(values).chunk(HEADS, 1)):
        outputs.append((k @ q / math.sqrt(len(q))).softmax(0) @ v)
    return torch.cat(outputs)


def transformer_reference(module, kind, context_kind, x, text):
    batch, _, frames, height, width = x.shape
    out = torch.empty_like(x)
    for b in range(batch):
        places = [(t, i, j) for t in range(frames) for i in range(height) for j in range(width)]
        token = {p: x[b, :, p[0], p[1], p[2]] for p in places}
        seen = {p: module.norm1(token[p]) + encoding(kind, *p) for p in places}
        attn = module.attn
        for place in places:
            t, i, j = place
            if kind.startswith("Self"):
                others = [p for p in places if kind.endswith("3D") or p[1:] == (i, j)]
                keys, values = [attn.to_k(seen[p]) for p in others], [attn.to_v(seen[p]) for p in others]
            else:
                keys, values = [], []
                if "text" in context_kind:
                    keys, values = [attn.to_k(w) for w in text[b]], [attn.to_v(w) for w in text[b]]
                if "anchor" in context_kind:
                    anchors = [p for p in places if p[0] == 0 and (kind.endswith("3D") or p[1:] == (i, j))]
                    values += [attn.to_v_anchor(seen[p]) for p in anchors]
                    if hasattr(attn, "to_k_anchor"):
                        keys += [attn.to_k_anchor(seen[p]) for p in anchors]
            attended = attend_one(attn.to_q(seen[place]), keys, values) if keys else values[0]
            value = token[place] + attn.to_out(attended)
            hidden, gate = module.ff.net[0].proj(module.norm2(value)).chunk(2)
            out[b, :, t, i, j] = value + module.ff.net[2](hidden * F.gelu(gate))
    return out


@pytest.mark.parametrize("which", [w for w in ALL if "Attention" in w[0]])
def test_attention_equals_its_definition(which, randomize):
    module = randomize(operator(*which))
    x, text = torch.randn(2, C, 3, 2, 3), torch.randn(2, 4, D)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, text), transformer_reference(module, *which, x, text), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("kind", ["Conv1D", "Conv3D"])
def test_convolution_equals_conv3d(kind, kernel, randomize):
    module = randomize(operator(kind, kernel=kernel))
    x = torch.randn(2, C, 4, 3, 5)
    if kind == "Conv1D":
        weight, bias = module.conv.weight[..., None], module.conv.bias
    else:
        weight, bias = torch.stack([conv.weight for conv in module.convs], 2), module.convs[kernel // 2].bias
    expected = x + F.conv3d(F.silu(module.norm(x)), weight, bias, padding=[size // 2 for size in weight.shape[2:]])
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


# -- what the definitions are for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["anchor", "text+anchor"])
def test_cross_attention_1d_and_3d_differ_beyond_position(context, randomize):
    """3D reads the anchor frame at other places, 1D does not."""
    x, text = torch.randn(1, C, 3, 2, 2), torch.randn(1, 4, D)
    moved = x.clone()
    moved[:, :, 0, 1, 1] = torch.randn(C)  # the anchor frame, at a place far from the one looked at
    for kind, reads in (("CrossAttention1D", False), ("CrossAttention3D", True)):
        module = randomize(operator(kind, context))
        change = (module(x, text) - module(moved, text))[:, :, 1:, 0, 0].abs().max()
        assert (change > 1e-4) == reads


@pytest.mark.parametrize("which", ALL)
def test_where_an_operator_looks(which, randomize):
    """1D operators never mix places; every operator but the text-only cross-attention mixes frames."""
    module, text = randomize(operator(*which)), torch.randn(1, 4, D)
    x = torch.randn(1, C, 4, 3, 3)
    moved = x.clone()
    moved[:, :, 0, 1, 1] = torch.randn(C)
    if "Conv" in which[0]:  # a group norm sees everything by design; without it the reach is the kernel's
        module.norm = torch.nn.Identity()
    change = (module(x, text) - module(moved, text)).abs().amax(dim=(0, 1)) > 1e-5
    assert bool(change[1, 1, 1]) == (which[1] != "text")
    assert bool(change[:, 0, 0].any()) == (which[0].endswith("3D") and which[1] != "text")


@pytest.mark.parametrize("which", [w for w in ALL if "Attention" in w[0] and w[1] != "anchor"])
def test_attention_knows_the_order_of_frames(which, randomize):
    module, text = randomize(operator(*which)), torch.randn(1, 4, D)
    x = torch.randn(1, C, 4, 2, 2)
    swapped = x[:, :, [0, 1, 3, 2]]
    assert (module(x, text)[:, :, [0, 1, 3, 2]] - module(swapped, text)).abs().max() > 1e-4


@pytest.mark.parametrize("which", ALL)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # it traces what is behind it
def test_torch_can_trace_it_as_a_whole(which, randomize):
    """For `torch.compile`; what the compiler makes of the graph is its own affair."""
    module, x, text = randomize(operator(*which)), torch.randn(2, C, 3, 2, 4), torch.randn(2, 4, D)
    with torch.inference_mode():
        traced = torch.compile(module, backend="eager", fullgraph=True)(x, text)
        torch.testing.assert_close(traced, module(x, text))
