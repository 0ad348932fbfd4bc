"""The video autoencoder, whole or in parts."""

from nas.models.autoencoder.blocks import Encoder, MidAttention, SeparableDecoder, VAEResnetBlock
from nas.models.autoencoder.model import Autoencoder
from nas.models.autoencoder.public import PublicAutoencoder
from nas.models.autoencoder.streaming import DecoderRun, decode_chunks, encode_chunks, encode_clips
from nas.models.autoencoder.temporal import Past, TemporalConv, TemporalDownsampler, TemporalUpsampler

__all__ = [
    "Autoencoder",
    "DecoderRun",
    "Encoder",
    "MidAttention",
    "Past",
    "PublicAutoencoder",
    "SeparableDecoder",
    "TemporalConv",
    "TemporalDownsampler",
    "TemporalUpsampler",
    "VAEResnetBlock",
    "decode_chunks",
    "encode_chunks",
    "encode_clips",
]
