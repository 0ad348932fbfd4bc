"""What tests of several packages share."""

import os
from pathlib import Path

import hypothesis
import pytest

# Several test processes on two cores: more threads would only wait for each other. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# By default hypothesis fails a test whose examples take longer than 200 ms, which happens on a busy machine.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items) -> None:
    """Files with slow tests first: late in a run, one process would work on them while the other has nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(trylast=True)
def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput"):  # the process that prints, not one of those that test
        config.pluginmanager.register(FailuresAtOnce(config.pluginmanager.get_plugin("terminalreporter")))


class FailuresAtOnce:
    """Names a test when it fails, so that a run that is stopped half way has said what it found."""

    def __init__(self, terminal):
        self.terminal = terminal

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and self.terminal is not None:
            self.terminal.write_line(f"\n{report.nodeid} ({report.when}): {report.longreprtext[-2000:]}")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint folder of a real but tiny model: all six operators, random weights, its own small text encoder."""
    import torch

    from nas import checkpoint
    from nas.models import Autoencoder, VAEConfig, build
    from nas.spaces import Backbone, Latent, Operator, SearchSpace, Text

    root = tmp_path_factory.mktemp("tiny")
    kinds = ("SelfAttention1D", "SelfAttention3D", "CrossAttention1D", "CrossAttention3D", "Conv1D", "Conv3D")
    operators = {kind: Operator(kind, (("heads", 2),) if "Attention" in kind else ()) for kind in kinds}
    backbone = Backbone((16, 32), attention_levels=(1,), heads=2, norm_groups=8)
    latent = Latent(channels=4, frames=4, height=8, width=8)
    choices = ["none", *kinds]
    space = SearchSpace(
        "tiny",
        {f"{site}/{i}": choices for site in backbone.sites(latent) for i in range(2)},
        operators,
        backbone,
        latent,
        Text(tokens=8, dim=32, encoder=str(_text_encoder(root / "text"))),
    )
    slots = ["down.0.0/0", "down.1.0/0", "mid.0/0", "mid.0/1", "up.0.0/0", "up.1.1/0"]
    arch = space.architecture(dict(zip(slots, kinds)))
    torch.manual_seed(0)
    denoiser, autoencoder = build(space, arch), Autoencoder(VAEConfig((16, 32), image_channels=1, norm_groups=8))
    for parameter in [*denoiser.parameters(), *autoencoder.parameters()]:  # nothing may stay at its zero start
        parameter.data += 0.05 * torch.randn_like(parameter)
    checkpoint.save_autoencoder(root / "decoder", autoencoder)
    info = checkpoint.CheckpointInfo("adversarial", steps=2, guidance=1.0, text_encoder=space.text.encoder)
    return checkpoint.save(root / "checkpoint", denoiser.state_dict(), space, arch, root / "decoder", info)


def _text_encoder(folder: Path) -> Path:
    """A two-layer BERT, 32 wide, saved as transformers saves it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "digit",
        "a",
        "cat",
        "runs",
        "three",
        "five",
        "moves",
        "left",
        "right",
    ]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory) -> Path:
    """The checkpoint that `exported_litert` was exported from, see `tests.support.exported`."""
    from tests.support import exported

    return exported.built_once(tmp_path_factory, "clips", exported.clip_checkpoint) / "checkpoint"


@pytest.fixture(scope="session")
def exported_litert(clip_checkpoint, tmp_path_factory) -> Path:
    """The LiteRT export folder of a tiny text-to-video checkpoint. Tests must not change it."""
    from nas.export import litert
    from tests.support import exported

    return exported.built_once(tmp_path_factory, "exported", lambda folder: litert(clip_checkpoint, folder))


@pytest.fixture(scope="session")
def streaming_litert(clip_checkpoint, exported_litert, tmp_path_factory) -> Path:
    """A folder with `checkpoint` and `export`, whose decoder streams, see `tests.support.exported.streaming`."""
    from tests.support import exported

    return exported.built_once(
        tmp_path_factory, "streaming", lambda out: exported.streaming(clip_checkpoint, exported_litert, out)
    )
