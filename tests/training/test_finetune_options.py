"""Options of fine-tuning: LoRA, other starts, validation on a schedule, the loss by timestep; EMA and weight decay."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nas import checkpoint
from nas.config import build as build_config
from nas.diffusion.losses import batch_loss, batch_losses
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError
from nas.models import build, safetensors_io
from nas.models.diffusers_checkpoint import save_unet
from nas.models.lora import ATTENTION, LoraLinear, add_lora, is_lora, merge_lora
from nas.models.unet import UNet
from nas.training import DistillConfig, ExecutionConfig, FinetuneConfig, Inputs, read_history, run_stage
from nas.training.learner import Learner
from nas.training.optimization import Optimization
from nas.training.stages.finetune import LoraConfig
from nas.training.telemetry.history import by_share
from tests.training.test_telemetry import Denoised

CONFIG = FinetuneConfig(
    steps=6, batch=4, image_batch_size=4, image_share=0.4, validation=4, eval_steps=(), save_every=2
)
CHOICES = {"mid.0/0": "SelfAttention1D", "up.1.1/0": "Conv1D"}


def model_and_batch(space):
    torch.manual_seed(0)
    model = build(space, space.architecture(CHOICES))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    shape = space.input_shape()[1:]
    batch = Denoised(
        torch.randn(8, *shape), torch.randn(8, 16, 384), torch.randn(8, *shape), torch.linspace(0.05, 0.7, 8)
    )
    return model, batch


def test_merged_additions_change_nothing_and_only_they_are_trained(space):
    model, batch = model_and_batch(space)
    names = set(model.state_dict())
    before = batch_loss(model, batch).item()
    count = add_lora(model, 4, 8.0)
    attention = [name for name, layer in model.named_modules() if type(layer) is LoraLinear]
    assert count == len(attention) > 8 and all(name.endswith(ATTENTION) for name in attention)
    assert any(name.startswith("temporal.") for name in attention)
    assert batch_loss(model, batch).item() == pytest.approx(before, rel=1e-6)  # B is zero
    frozen = {name: value.clone() for name, value in model.state_dict().items() if not is_lora(name)}
    learner = Learner(model, Optimization(lr=5e-2, warmup=0), 20, trained=is_lora)
    for number in range(20):
        row = learner.train_step(lambda part: batch_losses(learner.model, part), batch, number)
    assert row["loss"] < 0.995 * before
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())
    trained = batch_loss(learner.result(), batch).item()
    merged = merge_lora(model)
    assert batch_loss(merged, batch).item() == pytest.approx(trained, rel=1e-5)
    assert set(merged.state_dict()) == names and not any(type(layer) is LoraLinear for layer in merged.modules())


def test_all_linear_layers_can_be_adapted(space):
    model, _ = model_and_batch(space)
    linear = sum(type(layer) is nn.Linear for layer in model.modules())
    assert add_lora(copy.deepcopy(model), 2, 1.0) < linear == add_lora(model, 2, 1.0, attention_only=False)


def test_the_losses_by_time_are_those_of_the_clips_at_that_time(space):
    model, batch = model_and_batch(space)
    with torch.no_grad():
        row = by_share({name: value.item() for name, value in batch_losses(model, batch).items()})
        each = [
            batch_loss(model, Denoised(*(value[i : i + 1] for value in vars(batch).values()))).item() for i in range(8)
        ]
    assert row["loss"] == batch_loss(model, batch).item() == pytest.approx(sum(each) / 8, rel=1e-4)
    quarters = [[loss for loss, t in zip(each, batch.t) if int(t * 4) == number] for number in range(4)]
    for number, losses in enumerate(quarters[:3]):
        assert row[f"loss_t{number}"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert math.isnan(row["loss_t3"]) and not any(name.endswith(":share") for name in row)


def test_the_losses_by_time_do_not_depend_on_accumulation(space):
    rows = []
    for parts in (1, 4):
        model, batch = model_and_batch(space)
        learner = Learner(model, Optimization(lr=1e-3), 4, execution=ExecutionConfig(accumulate=parts))
        rows.append(by_share(learner.train_step(lambda part, m=model: batch_losses(m, part), batch, 0)))
    for name, value in rows[0].items():
        assert value == pytest.approx(rows[1][name], rel=1e-3, nan_ok=True)


def test_the_horizon_of_the_ema_grows_with_the_run():
    """Runs of up to 2000 steps have the decay of 0.99 that they always had."""
    plain = Optimization(lr=1.0)
    assert [plain.with_ema(steps).ema for steps in (1, 300, 1300, 2000)] == [0.99] * 4
    assert plain.with_ema(100_000).ema == 1 - 1 / 5000
    assert replace(plain, ema_horizon=50).with_ema(100_000).ema == 0.98
    assert replace(plain, ema=0.5).with_ema(100_000).ema == 0.5 == replace(plain, ema=0.5).with_ema(7).ema
    with pytest.raises(ConfigError, match="ema_horizon: says the same as ema"):
        Optimization(lr=1.0, ema=0.9, ema_horizon=10)
    with pytest.raises(ConfigError, match="ema_horizon: must be at least 1"):
        Optimization(lr=1.0, ema_horizon=0.5)


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.linear = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4)


@pytest.mark.parametrize("what, decayed", [("all", 5), ("weights", 1)])
def test_weight_decay_can_leave_out_biases_norms_and_embeddings(what, decayed):
    module = Parts()
    nn.init.ones_(module.table.weight), nn.init.ones_(module.linear.weight)
    options = Optimization(lr=0.1, warmup=0, weight_decay=0.5, weight_decay_on=what)
    learner = Learner(module, options, 10)
    with torch.no_grad():
        [parameter.fill_(1.0) for parameter in module.parameters()]
    learner.update(sum(parameter.sum() * 0 for parameter in module.parameters()), 0)
    shrunk = {name for name, parameter in module.named_parameters() if (parameter < 1).all()}
    assert len(shrunk) == decayed and "linear.weight" in shrunk
    with pytest.raises(ConfigError, match="weight_decay_on: must be all or weights"):
        replace(options, weight_decay_on="norms")


def test_the_learning_rates_of_groups_are_independent_of_their_decay():
    module = Parts()
    options = Optimization(lr=0.1, weight_decay_on="weights")
    learner = Learner(module, options, 10, slow=lambda name: name.startswith("table"), slow_rate=0.5)
    assert [
        (group["rate"], group["weight_decay"], len(group["params"])) for group in learner.optimizer.param_groups
    ] == [
        (0.5, 0.0, 1),
        (1.0, 0.0, 3),
        (1.0, 0.01, 1),
    ]


@pytest.fixture(scope="module")
def inputs(space, decoder, tmp_path_factory) -> Inputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("options") / "distill"
    start = run_stage("distill", folder, DistillConfig(steps=2, batch=4, validation=4), Inputs(space, decoder)).folder
    return Inputs(space, decoder, start, space.architecture(CHOICES))


@pytest.mark.slow
def test_lora_on_a_checkpoint_gives_a_plain_checkpoint(inputs, tmp_path):
    full = run_stage("finetune", tmp_path / "full", replace(CONFIG, validate_every=4), inputs)
    config = replace(CONFIG, start=str(full.folder), lora=LoraConfig(rank=2, alpha=4.0))
    adapted = run_stage("finetune", tmp_path / "lora", config, replace(inputs, start=None))
    before, after = (safetensors_io.load(r.folder / "denoiser.safetensors") for r in (full, adapted))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.removesuffix(".weight").endswith(ATTENTION) for name in changed)
    assert adapted.metrics["validation_loss_before"] == pytest.approx(full.metrics["validation_loss"], rel=1e-5)
    checkpoint.load(adapted.folder)

    rows = read_history(full.folder)
    assert [math.isnan(row["validation_loss"]) for row in rows] == [True, True, True, False, True, False]
    assert rows[-1]["validation_loss"] == pytest.approx(full.metrics["validation_loss"], rel=1e-5)
    assert {"loss_t0", "loss_t3"} <= rows[0].keys() and "validation_loss" not in read_history(adapted.folder)[0]
    weights = safetensors_io.load(full.folder / "denoiser.safetensors")
    plain = run_stage("finetune", tmp_path / "plain", CONFIG, inputs)  # validation changes nothing
    assert all(
        torch.equal(value, weights[name])
        for name, value in safetensors_io.load(plain.folder / "denoiser.safetensors").items()
    )


@pytest.mark.slow
def test_starts_are_checkpoints_stages_and_folders_of_diffusers(inputs, space, tmp_path):
    from nas.training.stages.finetune import denoiser_from_any
    from nas.training.stages.supernet import denoiser_from

    of_stage, expected = denoiser_from_any(inputs.start, inputs), denoiser_from(inputs.start, inputs)
    assert all(
        torch.equal(value, of_stage.state_dict()[name])
        for name, value in expected.state_dict().items()
        if not name.startswith("temporal.")
    )
    torch.manual_seed(1)
    unet = UNet(space.backbone, space.latent.channels, space.text.dim)
    save_unet(unet, tmp_path / "sd" / "unet")
    denoiser = denoiser_from_any(tmp_path / "sd", inputs)
    assert all(torch.equal(value, denoiser.state_dict()[name]) for name, value in unet.state_dict().items())

    done = run_stage("finetune", tmp_path / "done", replace(CONFIG, steps=2), inputs)
    other = replace(inputs, architecture=space.architecture({}))
    with pytest.raises(ConfigError, match=r"denoiser.safetensors: does not fit the search space and the architecture"):
        denoiser_from_any(done.folder, other)
    with pytest.raises(
        ConfigError, match=r"finetune.start: .* was trained with objective.prediction: flow; set the same"
    ):
        denoiser_from_any(done.folder, replace(inputs, objective=Objective("v")))
    with pytest.raises(ConfigError, match=r"nothing: no such checkpoint folder"):
        run_stage("finetune", tmp_path / "x", replace(CONFIG, start="nothing"), replace(inputs, base=tmp_path))


@pytest.mark.slow
def test_a_longer_run_records_its_longer_ema_when_it_is_extended(inputs, tmp_path):
    kept = replace(inputs, execution=ExecutionConfig(keep=2, loggers=()))
    config = replace(CONFIG, steps=2, optimization=Optimization(lr=1e-3))
    run_stage("finetune", tmp_path / "a", config, kept)
    recorded = json.loads((tmp_path / "a/stage.json").read_text())["config"]["optimization"]
    assert recorded["ema"] == 0.99 and recorded["ema_horizon"] is None
    run_stage("finetune", tmp_path / "a", replace(config, steps=4), kept)
    run_stage("finetune", tmp_path / "a", replace(config, steps=4, optimization=Optimization(lr=1e-3, ema=0.99)), kept)
    with pytest.raises(ConfigError, match=r"another config.optimization.ema \(0.99, now 0.9\)"):
        run_stage(
            "finetune", tmp_path / "a", replace(config, steps=4, optimization=Optimization(lr=1e-3, ema=0.9)), kept
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lora": {"rank": 0}}, "recipe.yaml: stages.finetune.lora: rank: must be at least 1"),
        ({"lora": {"ranks": 2}}, "lora.ranks'; did you mean 'rank'?"),
        ({"lora": {"targets": "all"}}, "targets"),
        ({"validate_every": -1}, "validate_every: must be at least 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options, text):
    with pytest.raises(ConfigError) as caught:
        build_config(FinetuneConfig, options, "recipe.yaml", "stages.finetune")
    assert text.split(": ")[-1] in str(caught.value) and "\n" not in str(caught.value)


def test_an_architecture_without_attention_has_nothing_to_adapt():
    assert add_lora(nn.Sequential(nn.Conv2d(2, 2, 1)), 2, 2.0) == 0
