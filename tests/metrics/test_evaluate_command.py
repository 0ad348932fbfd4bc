"""`nas evaluate` on scenes, on other data and with VBench: what is generated, measured, written and shown."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas import checkpoint
from nas.cli import main
from nas.metrics import checkpoint_evaluation, evaluation
from nas.metrics.clip_score import CLIPScore
from nas.metrics.evaluation import eval_captions, load_evaluator
from nas.metrics.results import Evaluation
from nas.metrics.vbench import QUALITY, SEMANTIC, totals
from nas.models import build
from nas.runs.record import StageQuality
from nas.spaces import SearchSpace
from nas.training import DecoderConfig, Inputs, run_stage
from nas.training.stages.prepare import PrepareConfig, prepare
from tests.metrics.test_scene_judging import hurried

SCENES = "objects: [1, 2]\nvideos: 20\nimages: 10\nheld_out: {videos: [{class: digits, color: red}]}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, space: SearchSpace, vae: Path) -> Path:
    """A run folder with scenes that were prepared, and a random model of them."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "scenes.yaml").write_text(SCENES)
    config = PrepareConfig(str(folder / "scenes.yaml"), str(vae), videos=4, images=2, held_out=3)
    prepare(folder / "checkpoints/decoder", config, space)
    write_checkpoint(folder / "checkpoints/finetune", folder / "checkpoints/decoder", space)
    return folder


def write_checkpoint(folder: Path, decoder: Path, space: SearchSpace) -> None:
    torch.manual_seed(0)
    arch = space.random(seed=0)
    info = checkpoint.CheckpointInfo("finetune", steps=2, guidance=2.0)
    checkpoint.save(folder, build(space, arch).state_dict(), space, arch, decoder, info)


@pytest.fixture
def quick(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges that were trained for a moment, once for this module."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "judges-of-commands"))
    hurried(monkeypatch)


def evaluate(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_scenes_are_judged_beside_real_ones(run, quick, capsys):
    folder = run / "checkpoints/finetune"
    found = evaluate(capsys, "--checkpoint", str(folder), "--clips", "3", "--seeds", "2", "--steps", "1", "2")
    assert found["suite"] == "standard" and found["validation_loss"] > 0 and found["quality"] == []
    assert [(case["title"], case["steps"], case["clips"], case["frames"]) for case in found["cases"]] == [
        ("scenes", 1, 6, 8),
        ("scenes", 2, 6, 8),
    ]
    measures = found["cases"][0]["measures"]
    assert {"class", "color", "object", "count", "scene", "flicker", "smoothness", "background", "dynamic"} <= set(
        measures
    )
    assert measures["color"]["real"] == 1 and measures["count"]["real"] == 1
    assert all(one["low"] <= one["value"] <= one["high"] for one in measures.values())
    assert len(measures["flicker"]["seeds"]) == 2 and "frechet" not in measures  # too few clips for a distance
    written = Evaluation.load(folder / "evaluation/standard.json")
    assert written.cases[0].measures["count"].value == measures["count"]["value"]
    text = written.text()
    assert (
        "multi-object accuracy" in text and "real clips" in text and "6 clips of 8 frames, 1 step, guidance 2" in text
    )
    assert nas.report.write(run).read_text().count("motion smoothness") == 2


def test_the_same_seed_gives_the_same_numbers_and_a_clip_does_not_depend_on_the_others(run, quick, tmp_path):
    from nas.metrics.checkpoint_evaluation import EvaluationOptions, evaluate_checkpoint

    folder = run / "checkpoints/finetune"
    results = [
        evaluate_checkpoint(folder, options=EvaluationOptions(clips=clips), out=tmp_path / "out.json")
        for clips in (2, 2)
    ]
    assert results[0] == results[1]


def test_long_and_stress_suites(run, quick, capsys, tmp_path):
    common = ["--checkpoint", str(run / "checkpoints/finetune"), "--clips", "1", "--steps", "1"]
    found = evaluate(capsys, *common, "--suite", "long", "--out", str(tmp_path / "long.json"))
    assert [(case["title"], case["frames"]) for case in found["cases"]] == [
        ("1x length", 8),
        ("2x length", 16),
        ("2x length, last part", 8),
        ("4x length", 32),
        ("4x length, last part", 8),
    ]
    assert all("drift" in case["measures"] for case in found["cases"])
    stress = evaluate(capsys, *common, "--suite", "stress", "--out", str(tmp_path / "stress.json"))
    cases = {case["title"]: case["measures"] for case in stress["cases"]}
    assert list(cases) == [
        "three objects",
        "crossing paths",
        "unseen combinations",
        "long captions",
        "contradictory captions",
        "empty captions",
    ]
    assert cases["three objects"]["class"]["count"] == 3
    for title, measures in cases.items():
        assert ("scene" in measures) == (title not in ("contradictory captions", "empty captions"))
        assert "found" in measures or "scene" in measures


def test_other_data_have_what_needs_no_labels(run, space, vae, capsys, tmp_path, monkeypatch):
    from nas.data.video_writer import save

    for split, count in (("train", 2), ("test", 2)):
        (tmp_path / "clips" / split).mkdir(parents=True)
        rows = []
        for i in range(count):
            frames = np.random.default_rng(i).integers(0, 255, (8, 32, 32, 3), np.uint8)
            save(tmp_path / "clips" / split / f"{i}.mp4", frames, space.clip.fps)
            rows.append(f"{i}.mp4,clip {i}")
        (tmp_path / "clips" / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    prepare(tmp_path / "decoder", PrepareConfig(str(tmp_path / "clips"), str(vae)), space)
    write_checkpoint(tmp_path / "finetune", tmp_path / "decoder", space)
    common = ["--checkpoint", str(tmp_path / "finetune"), "--steps", "1"]
    found = evaluate(capsys, *common)
    (case,) = found["cases"]
    assert case["clips"] == 2 and set(case["measures"]) == {"background", "smoothness", "flicker", "dynamic", "drift"}
    assert case["measures"]["flicker"]["real"] is not None
    monkeypatch.setattr(
        checkpoint_evaluation, "validation_loss", None
    )  # nothing is computed before the suite is refused
    assert main(["evaluate", *common, "--suite", "stress"]) == 2
    assert "'stress' asks for scenes" in capsys.readouterr().err


def test_scenes_are_evaluated_during_training(run, quick, space):
    evaluator = load_evaluator(run / "checkpoints/decoder", 4)
    arch = space.random(seed=0)
    row = evaluator(build(space, arch), space.input_shape()[1:], 1, 1.0)
    assert set(row) == {"steps", "frechet", "digit_accuracy", "direction_accuracy", "scene_accuracy"}
    real = evaluator.score(evaluator.real())
    assert real["direction_accuracy"] >= 0.9 and real["frechet"] < row["frechet"]
    assert len(eval_captions(evaluator.source)) == 160


def test_the_decoder_stage_says_what_its_reconstructions_lose(quick, space, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATED", 6)
    monkeypatch.setattr(evaluation, "REFERENCE", 4)
    config = DecoderConfig("scenes", steps=2, batch=2, channels=(8, 16, 16), videos=4, images=2, held_out=2)
    metrics = run_stage("decoder", tmp_path / "decoder", config, Inputs(space)).metrics["scene_judges"]
    assert metrics["real"]["direction_accuracy"] >= 0.8 > metrics["reconstructed"]["digit_accuracy"]
    row = StageQuality("real", 0, **metrics["real"], clips=6)
    assert row.shown == "objects"
    assert run_stage("decoder", tmp_path / "decoder", config, Inputs(space)).metrics["scene_judges"] == metrics


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "standart"), ("no suite 'standart'", "did you mean 'standard'?")),
        (("--suite", "vbench"), ("vbench", "pip install vbench")),
        (("--dimension", "color"), ("dimensions", "--suite vbench")),
        (("--fvd", "none.pt", "--clips", "1"), ("none.pt", "no such file", "i3d_torchscript.pt")),
        (("--clip-model", "{folder}", "--clips", "1"), ("clip-model", "is not a CLIP model")),
        (("--data", "{folder}"), ("data.json",)),
        (("--clips", "0"), ("--clips", "at least 1")),
    ],
)
def test_mistakes_are_one_line(run, quick, capsys, tmp_path, arguments, words):
    capsys.readouterr()
    given = [argument.format(folder=tmp_path) for argument in arguments]
    assert main(["evaluate", "--checkpoint", str(run / "checkpoints/finetune"), *given]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in message for word in words), message


def test_without_a_decoder_beside_it_the_data_must_be_named(run, capsys, tmp_path):
    shutil.copytree(run / "checkpoints/finetune", tmp_path / "finetune")
    assert main(["evaluate", "--checkpoint", str(tmp_path / "finetune")]) == 2
    assert "give --data DIR" in capsys.readouterr().err


VBENCH = """
import json, os
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.out = output_path
        os.makedirs(output_path, exist_ok=True)
    def evaluate(self, videos_path, name, dimension_list=None, local=False, read_frame=False, mode="vbench_standard"):
        assert mode == "vbench_standard"
        clips = sorted(os.listdir(videos_path))
        scores = {d: [len(clips) / 100, [{"video_path": c} for c in clips]] for d in dimension_list}
        json.dump(scores, open(os.path.join(self.out, name + "_eval_results.json"), "w"))
"""
PROMPTS = [
    {"prompt_en": "a cat and a dog", "dimension": ["multiple_objects"]},
    {"prompt_en": "a red car", "dimension": ["color", "object_class"]},
    {"prompt_en": "a still life", "dimension": ["temporal_flickering"]},
]


def test_vbench_runs_its_own_prompts_and_resumes(run, capsys, tmp_path, monkeypatch):
    (tmp_path / "vbench").mkdir()
    (tmp_path / "vbench/__init__.py").write_text(VBENCH)
    (tmp_path / "vbench/VBench_full_info.json").write_text(json.dumps(PROMPTS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vbench", raising=False)
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints/finetune"
    common = ("--checkpoint", str(folder), "--suite", "vbench", "--steps", "1", "--dimension")
    found = evaluate(capsys, *common, "multiple_objects", "color")
    assert found["cases"][0]["measures"]["color"]["value"] == 0.1  # five clips of each of two prompts
    clips = folder / "evaluation/vbench-1/clips"
    assert sorted(path.name for path in clips.iterdir())[:2] == ["a cat and a dog-0.mp4", "a cat and a dog-1.mp4"]
    (clips / "a red car-3.mp4").unlink()
    (clips / "a red car-0.mp4").write_bytes(b"kept")
    evaluate(capsys, *common, "color")
    assert (clips / "a red car-3.mp4").stat().st_size > 100 and (clips / "a red car-0.mp4").read_bytes() == b"kept"
    assert main(["evaluate", *common, "colour"]) == 2
    assert "no dimension 'colour'" in capsys.readouterr().err
    sys.modules.pop("vbench", None)


def test_vbench_totals_are_those_of_its_leaderboard():
    """All dimensions at their upper ends make 100; quality weighs four times as much, dynamic degree half a dimension."""
    best = {name: high for name, (_, high, _) in (QUALITY | SEMANTIC).items()}
    assert totals(best) == pytest.approx({"quality": 100, "semantic": 100, "total": 100})
    assert totals({**best, "dynamic_degree": 0.0})["quality"] == pytest.approx(100 * 6 / 6.5)
    assert totals({**best, "color": 0.0})["total"] == pytest.approx(100 * (4 + 8 / 9) / 5)
    assert totals({name: best[name] for name in QUALITY}) == pytest.approx({"quality": 100})


def test_clip_score_tells_captions_apart_with_a_model_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "blue</w>", "a", "r", "e", "d", "b", "l", "u"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=8
    )
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "model")
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    scorer = CLIPScore(tmp_path / "model", "cpu")
    clip = torch.rand(3, 6, 20, 20) * 2 - 1
    first, second = scorer(clip, "a red"), scorer(clip, "blue")
    assert 0 <= first <= 100 and first != second and scorer(clip, "a red") == first
    assert scorer(clip[:1], "a red") >= 0
