"""Everything that computes, on the pretended accelerator: no mixed devices, nothing heavy on the CPU, few waits.

Run by `tests/training/test_accelerator.py` in a process of its own; in order, since each stage starts from the one before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import nas
from nas.cli import main
from nas.metrics.digit_classifier import DigitEvaluator
from nas.models import UNet
from nas.models.diffusers_checkpoint import save_unet
from nas.runs.previews import write_previews
from nas.search.evaluators.proxies import GradNorm
from nas.training import (
    AdversarialConfig,
    DecoderConfig,
    DistillConfig,
    ExecutionConfig,
    FinetuneConfig,
    Inputs,
    PreviewConfig,
    SupernetConfig,
    SupernetEvaluator,
    run_stage,
)
from nas.training.prune import PruningData, prune_checkpoint
from nas.training.stages.few_step_methods import Dmd2Config
from nas.training.stages.finetune import LoraConfig
from nas.training.stages.prepare import PrepareConfig, prepare
from nas.training.telemetry.history import HISTORY, History
from tests.conftest import _text_encoder
from tests.support.clip_files import write_clip
from tests.support.pretended.device import DEVICE, Recorder

SPACE = """
name: tiny
latent: {{channels: 4, frames: 8, height: 4, width: 4}}
text: {{tokens: 8, dim: 32, encoder: {text}}}
backbone: {{channels: [16, 16], attention_levels: [1], heads: 2, norm_groups: 8, text_tokens: 8}}
operators: {{none: , Conv1D: , Conv3D: , SelfAttention1D: {{heads: 2}}, SelfAttention3D: {{heads: 2}}, CrossAttention1D: {{heads: 2}}, CrossAttention3D: {{heads: 2}}}}
only_sites: [down.0.0, mid.0, up.1.1]
"""
CHOICES = {"down.0.0/0": "CrossAttention1D", "mid.0/0": "SelfAttention3D", "up.1.1/0": "SelfAttention1D"}
ON_DEVICE = ExecutionConfig(device="pretended")
FINETUNE = FinetuneConfig(
    steps=3, batch=4, image_batch_size=4, image_share=0.4, validation=4, eval_steps=(1,), eval_clips=4, save_every=9
)


@dataclass
class Seen:
    """What a test made the host do: per step of training, and on the CPU in all."""

    recorder: Recorder
    steps: list[tuple[Counter, Counter]]

    def check(self, trained: bool = True) -> None:
        """Nothing heavy ran on the CPU, and after the first step at most two waits and two uploads each.

        Not counted are the tables of positions, each of which is uploaded once: not every step uses every layer.
        """
        assert self.recorder.device_work and not self.recorder.host_work
        assert bool(self.steps) == trained
        tables = 0
        for waits, uploads in self.steps[1:]:
            copies = sum(count for place, count in uploads.items() if not place.startswith("models/positions.py"))
            tables += uploads.total() - copies
            assert waits.total() <= 2, waits
            assert copies <= 2, uploads
        assert tables <= 6


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    with Recorder() as recorder:
        steps, append = [], History.append

        def append_and_count(history: History, *row: object) -> None:
            if history.path.name == HISTORY:  # the row of a step
                steps.append((Counter(recorder.waits), Counter(recorder.uploads)))
                recorder.waits.clear(), recorder.uploads.clear()
            append(history, *row)

        monkeypatch.setattr(History, "append", append_and_count)
        yield Seen(recorder, steps)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the stages."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("accelerator")
    (folder / "tiny.yaml").write_text(SPACE.format(text=_text_encoder(folder / "text")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigitEvaluator.__init__, "__defaults__", (200,))  # real clips; 1000 take long
        yield folder


@pytest.fixture
def inputs(root: Path) -> Inputs:
    """Of every stage but the first; the tests set its start."""
    space = nas.SearchSpace.load(root / "tiny.yaml")
    return Inputs(space, root / "decoder", architecture=space.architecture(CHOICES), execution=ON_DEVICE)


def test_decoder(root, inputs, seen):
    config = DecoderConfig(
        steps=3, batch=4, channels=(8, 16, 16, 16), videos=16, images=16, held_out=4, classifier_steps=20, save_every=9
    )
    run_stage("decoder", root / "decoder", config, replace(inputs, decoder=None, architecture=None))
    seen.check()


def test_distill(root, inputs, seen):
    config = DistillConfig(steps=3, batch=4, validation=4, save_every=9)
    run_stage("distill", root / "distill", config, replace(inputs, architecture=None))
    seen.check()


def test_supernet(root, inputs, seen):
    config = SupernetConfig(steps=4, batch=4, image_batch_size=4, image_share=0.3, validation=4, paths=2, save_every=9)
    run_stage("supernet", root / "supernet", config, replace(inputs, start=root / "distill", architecture=None))
    seen.check()


def test_search(root, inputs, seen):
    evaluator = SupernetEvaluator(replace(inputs, start=root / "supernet"), clips=4)
    assert evaluator(inputs.architecture) != evaluator(inputs.space.architecture({}))
    with nas.distributed.use_device("pretended"):
        assert GradNorm(inputs.space)(inputs.architecture) > 0
    table = root / "table.csv"
    nas.profile(inputs.space, "roofline", "iphone_16_pro_max", out=table)
    words = ["--space", str(root / "tiny.yaml"), "--table", str(table), "--estimates", "--budget", "latency<=100%"]
    words += ["--evaluator", str(root / "supernet"), "--device", "pretended", "--trials", "2"]
    assert main(["search", *words, "--out", str(root / "best.json")]) == 0
    seen.check(trained=False)


def test_finetune_with_previews_and_evaluation(root, inputs, seen):
    inputs = replace(inputs, start=root / "supernet", previews=PreviewConfig(every=3, clips=2, steps=2))
    run_stage("finetune", root / "finetune", FINETUNE, inputs)
    del seen.steps[-1]  # it includes the previews
    seen.check()


def test_distill_from_a_teacher(root, inputs, seen):
    config = DistillConfig(steps=3, batch=4, validation=4, teacher=str(root / "finetune"), save_every=9)
    result = run_stage("distill", root / "taught", config, replace(inputs, architecture=None))
    assert result.metrics["teacher_loss"] > 0
    seen.check()


def test_adversarial_with_its_control(root, inputs, seen):
    config = AdversarialConfig(
        steps=4,
        batch=4,
        image_batch_size=4,
        image_share=0.3,
        teacher_batches=3,
        pure_noise_fraction=0.4,
        eval_steps=(),
        control_eval_steps=(),
        control_steps=2,
        control=FINETUNE,
        save_every=9,
    )
    run_stage("adversarial", root / "adversarial", config, replace(inputs, start=root / "finetune"))
    del seen.steps[4]  # the first of the control, with its setup
    seen.check()


@pytest.mark.parametrize("method", ["dmd2", "rcm"])
def test_distribution_matching(root, inputs, seen, method):
    config = AdversarialConfig(
        method=method,
        steps=4,
        batch=4,
        image_batch_size=4,
        image_share=0.3,
        pure_noise_fraction=0.4,
        dmd2=Dmd2Config(critic_steps=2),
        eval_steps=(),
        save_every=9,
    )
    run_stage("adversarial", root / method, config, replace(inputs, start=root / "finetune"))
    seen.check()


def test_low_rank_additions(root, inputs, seen):
    config = replace(FINETUNE, eval_steps=(), lora=LoraConfig(rank=2), start=str(root / "finetune"))
    run_stage("finetune", root / "lora", config, inputs)
    seen.check()


def test_resume(root, inputs, seen):
    """The state is restored onto the device; the last two steps are taken there."""
    config = replace(FINETUNE, steps=2, eval_steps=(), save_every=1)
    inputs = replace(inputs, start=root / "supernet", execution=replace(ON_DEVICE, keep=2))
    run_stage("finetune", root / "resumed", config, inputs)
    run_stage("finetune", root / "resumed", replace(config, steps=4), inputs)
    assert len(nas.training.read_history(root / "resumed")) == 4
    assert not seen.recorder.host_work


def test_prepare(root, inputs, seen):
    for split, count in {"train": 4, "test": 1}.items():
        folder = root / "clips" / split
        folder.mkdir(parents=True)
        rows = [f"{write_clip(folder / f'{i}.mp4', 8).name},the digit {i}" for i in range(count)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    config = PrepareConfig(str(root / "clips"), str(root / "vae"), held_out=1)
    color = replace(nas.checkpoint.load_autoencoder(root / "decoder").config, image_channels=3)
    nas.checkpoint.save_autoencoder(root / "vae", nas.models.Autoencoder(color))
    assert prepare(root / "prepared", config, inputs.space, "pretended").metrics["videos"] > 0
    seen.check(trained=False)


def test_prune_by_the_effect_on_data(root, inputs, seen):
    wide = replace(inputs.space.backbone, channels=(32, 32), layers_per_block=2, attention_levels=(0, 1), text_tokens=0)
    target = replace(inputs.space, backbone=replace(inputs.space.backbone, text_tokens=0))
    save_unet(UNet(wide, 4, 32), root / "wide" / "unet")
    prune_checkpoint(
        root / "wide", target, root / "pruned", "taylor", PruningData(root / "decoder", 2), device="pretended"
    )
    seen.check(trained=False)


def test_generate_and_evaluate(root, inputs, seen, capsys):
    arguments = ["--checkpoint", str(root / "finetune"), "--prompt", "the digit three moves left", "--steps", "2"]
    assert main(["generate", *arguments, "--device", "pretended", "--out", str(root / "clip.gif")]) == 0
    data = ["--data", str(root / "decoder"), "--steps", "1", "2", "--clips", "4", "--device", "pretended", "--json"]
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(root / "finetune"), *data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["validation_loss"] > 0 and [row["steps"] for row in found["quality"]] == [1, 2]
    write_previews(root / "previews", replace(inputs, start=root / "supernet"), inputs.architecture, ["the digit"], 1)
    seen.check(trained=False)
    on_cpu = nas.Pipeline.from_pretrained(root / "finetune", "cpu")("the digit three moves left", steps=2).frames
    moved = nas.Pipeline.from_pretrained(root / "finetune", "cpu").to(DEVICE)
    assert abs(on_cpu.astype(int) - moved("the digit three moves left", steps=2).frames).max() <= 1
