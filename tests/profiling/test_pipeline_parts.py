"""The text encoder and the decoder as the eager runtime measures them: the modules that a pipeline runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.costs.workload_counts import count_ops
from nas.models import Autoencoder
from nas.profiling.runtimes.eager import EagerRuntime
from nas.profiling.workers.eager import build_module, call, make_inputs
from nas.spaces import Decoder, SearchSpace, VAEConfig, Workload

pytestmark = pytest.mark.usefixtures("kept_processes")


def test_both_run_and_have_stats():
    text, decoder = SearchSpace.load("demo").pipeline_workloads()
    with EagerRuntime() as runtime:
        for workload in (text, decoder):
            session = runtime.open(workload)
            assert len(session.block(3)) == 3 and session.stats.memory_mb > 0
            assert session.stats.weights_mb >= 4e-6 * session.stats.params > 0
            session.close()


def test_decoder_equals_the_autoencoders():
    vae = VAEConfig((8, 16), norm_groups=8)
    clip = Workload(Decoder(vae), (1, 4, 3, 8, 8))
    part = Workload(Decoder(vae, frames=1), (1, 4, 1, 8, 8))
    latents = torch.randn(clip.shape)
    with torch.no_grad():
        whole, first = build_module(clip), build_module(part)
        autoencoder = Autoencoder(vae)
        autoencoder.load_state_dict(whole.autoencoder.state_dict(), strict=False)
        torch.testing.assert_close(whole(latents), autoencoder.decode_unscaled(latents))
        first.load_state_dict({k.removeprefix("autoencoder."): v for k, v in whole.state_dict().items()})
        video = first(latents[:, :, :1], **first.initial_state(1, 8, 8))["video"]
        torch.testing.assert_close(video, whole(latents)[:, :, :1])  # causal: a first part alone


@pytest.mark.parametrize("compression", [1, 2, 4])
@pytest.mark.parametrize("frames", [None, 1, 3])
def test_decoder_counts_agree_with_torch(compression, frames):
    vae = VAEConfig((32, 64, 96), norm_groups=8, layers_per_block=2, temporal_compression=compression)
    workload = Workload(Decoder(vae, frames), (1, 4, frames or 3, 16, 16))
    meta = torch.device("meta")
    with meta, FlopCounterMode(display=False) as counter:
        module = build_module(workload).eval()
        call(module, make_inputs(workload, meta))
    counted = count_ops(workload)
    assert counted.params == sum(p.numel() for p in module.parameters())
    assert 1 <= counted.flops / counter.get_total_flops() < 1.1
