"""`nas prune` and what it gives, on a tiny checkpoint as diffusers has it."""

import json
from dataclasses import replace

import pytest
import torch

import nas
from nas.cli import main
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError
from nas.models import UNet
from nas.models.diffusers_checkpoint import load_unet, save_unet
from nas.training.prune import PruningData, output_distance_loss, prune_checkpoint


@pytest.fixture(scope="module")
def wide(tmp_path_factory, space):
    """A checkpoint twice as wide and deep as the space's backbone."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    backbone = replace(space.backbone, channels=(32, 32), layers_per_block=2, attention_levels=(0, 1))
    save_unet(UNet(backbone, 4, 384), folder / "unet")
    return folder


def test_the_command_writes_a_checkpoint_and_a_report(wide, space, tmp_path, capsys):
    path = space.save(tmp_path / "space.yaml")
    before = replace(space.backbone_workload(), part=load_unet(wide).config)
    table = tmp_path / "table.csv"
    table.write_text(
        f"workload,latency_ms,memory_mb,weights_mb,params\n{before},50,1,1,1\n{space.backbone_workload()},12.5,1,1,1\n"
    )
    arguments = ["--checkpoint", str(wide), "--space", str(path), "--out", str(tmp_path / "out"), "--table", str(table)]
    assert main(["prune", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "latency before: 50.0 ms" in printed and "latency after: 12.5 ms" in printed
    assert printed.startswith((tmp_path / "out" / "report.txt").read_text())
    pruned = load_unet(tmp_path / "out")
    assert pruned.config == space.backbone
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["params_after"] == sum(p.numel() for p in pruned.parameters()) < written["params_before"]


def test_taylor_on_data_chooses_other_channels_and_is_nearer_to_the_original(wide, space, decoder, tmp_path):
    calibration = PruningData(decoder, images=8)
    loss = output_distance_loss(load_unet(wide), Objective("epsilon"), replace(calibration, seed=7))
    distances = {}
    for importance in ("norm", "taylor"):
        prune_checkpoint(wide, space, tmp_path / importance, importance, calibration)
        with torch.no_grad():
            distances[importance] = loss(load_unet(tmp_path / importance)).item()
    assert distances["taylor"] != distances["norm"]
    with torch.no_grad():
        assert loss(load_unet(wide)).item() == 0


def test_what_cannot_be_pruned_is_one_line(wide, space, decoder, tmp_path, capsys):
    with pytest.raises(ConfigError, match="'taylor' scores channels on data"):
        prune_checkpoint(wide, space, tmp_path, "taylor")
    with pytest.raises(ConfigError, match="unknown importance 'tailor'; did you mean 'taylor'"):
        prune_checkpoint(wide, space, tmp_path, "tailor")
    with pytest.raises(ConfigError, match="cost-only"):
        prune_checkpoint(wide, nas.SearchSpace("costs", {"a": ["none", "b"]}), tmp_path)
    save_unet(UNet(space.backbone, 4, 12), tmp_path / "text12")
    with pytest.raises(ConfigError, match="text of width 384; the checkpoint expects 4 and 12"):
        output_distance_loss(load_unet(tmp_path / "text12"), Objective("epsilon"), PruningData(decoder))
    assert main(["prune", "--checkpoint", "nowhere", "--space", "demo", "--out", str(tmp_path)]) == 2
    assert "no such checkpoint folder" in capsys.readouterr().err
