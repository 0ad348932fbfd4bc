"""A search space of one slot on one site, for tests that measure it."""

SPACE = """
name: tiny
latent: {channels: 4, frames: 4, height: 8, width: 8}
text: {tokens: 4, dim: 16, encoder: minilm}
backbone: {channels: [32], layers_per_block: 1, attention_levels: [], mid: false, heads: 2, norm_groups: 8}
only_sites: [down.0.0]
operators: {none: , SelfAttention1D: {heads: 2}, Conv1D: {kernel: 3}}
"""
