"""Search spaces: operator specs, backbones and their topology, workloads, slots, architectures. Imports no torch."""

from nas.spaces.architecture import Architecture
from nas.spaces.backbone import Backbone, Latent, Site, Text
from nas.spaces.backbone_space import BackboneSpace
from nas.spaces.clip import DEFAULT_FPS, Clip
from nas.spaces.load import shipped_spaces
from nas.spaces.operators import NONE, Operator, OperatorSpec, operator_kinds, operator_spec, register_operator, resolve
from nas.spaces.pipeline import Decoder, TextEncoder, VAEConfig
from nas.spaces.space import CostOnlySpace, SearchSpace
from nas.spaces.workload import Workload

__all__ = [
    "DEFAULT_FPS",
    "NONE",
    "Architecture",
    "Backbone",
    "BackboneSpace",
    "Clip",
    "CostOnlySpace",
    "Decoder",
    "Latent",
    "Operator",
    "OperatorSpec",
    "SearchSpace",
    "Site",
    "Text",
    "TextEncoder",
    "VAEConfig",
    "Workload",
    "operator_kinds",
    "operator_spec",
    "register_operator",
    "resolve",
    "shipped_spaces",
]
