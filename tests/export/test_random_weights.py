"""An architecture is exported before anything is trained, and the export says so."""

import json

import pytest

from nas import checkpoint
from nas.cli import main
from nas.export import FORMATS, recipe
from nas.export.random_weights import random_checkpoint
from nas.exported import manifest
from nas.exported.pipeline import ExportedPipeline
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Architecture, SearchSpace

SPACE = """
name: small
latent: {{channels: 4, frames: 2, height: 4, width: 4}}
text: {{tokens: 8, dim: 16, encoder: {encoder}}}
text_encoder: {{kind: bert, layers: 1, heads: 2, vocabulary: 300}}
decoder: {{vae: {{channels: [8], image_channels: 1, norm_groups: 4, mid_attention: false}}}}
backbone: {{channels: [16], layers_per_block: 1, attention_levels: [], mid: false, heads: 2, norm_groups: 8}}
only_sites: [down.0.0]
operators: {{none: , CrossAttention1D: {{heads: 2}}, Conv1D: {{kernel: 3}}}}
"""


@pytest.fixture
def files(tmp_path):
    """`(architecture, space)` files; the space's text encoder is not installed, but its size is stated."""
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.format(encoder=tmp_path / "no-such-encoder"))
    loaded = SearchSpace.load(space)
    arch = loaded.architecture({"down.0.0/0": "CrossAttention1D"})
    return arch.save(tmp_path / "a.json") or tmp_path / "a.json", space


def words(files, out, format_name="litert", *more):
    arch, space = map(str, files)
    return ["export", "--architecture", arch, "--space", space, "--format", format_name, "--out", str(out), *more]


@pytest.mark.slow
def test_litert_export_runs_and_says_that_it_is_untrained(files, tmp_path, capsys):
    out = tmp_path / "export"
    assert main(words(files, out)) == 0
    assert "The weights are random" in capsys.readouterr().out
    entry = manifest.read(out, "litert")
    assert entry.random_weights and entry.summary.startswith("The weights are random")
    assert entry.checkpoint["stage"] == "random" and entry.checks["denoiser"]["error_float32"] < 1e-5
    clip = ExportedPipeline(out)("ein Hund läuft 🎈").frames
    assert clip.shape == (1, 2, 4, 4, 1) and clip.std() > 1


def test_every_format_gets_the_checkpoint(files, tmp_path, monkeypatch):
    seen = []

    def write(folder, out, **options):
        seen.append((checkpoint.load(folder).info.stage, options))
        return recipe(folder, out)

    monkeypatch.setitem(FORMATS, "coreml", write)
    monkeypatch.setattr("nas.exported.manifest.read", lambda out, name, read=manifest.read: read(out, "recipe"))
    assert main(words(files, tmp_path / "export", "coreml", "--bits", "8", "--chunk", "--no-check", "--seed", "5")) == 0
    assert seen == [("random", {"bits": 8, "chunk": True, "check": False})]


def test_recipe_export(files, tmp_path):
    assert main(words(files, tmp_path / "export", "recipe")) == 0
    assert json.loads((tmp_path / "export" / "export.json").read_text())["recipe"]["random_weights"]
    space = SearchSpace.load(tmp_path / "export" / "recipe" / "space.yaml")
    assert space.text.encoder.endswith("no-such-encoder")  # the recipe trains with the space's own encoder


def test_seed_decides_the_weights_and_none_is_zero(files, tmp_path):
    arch_file, space_file = files
    space = SearchSpace.load(space_file)
    arch = space.check(Architecture.load(arch_file))
    one, same, other = (
        checkpoint.load(random_checkpoint(space, arch, tmp_path / str(i), seed)).denoiser.state_dict()
        for i, seed in enumerate([1, 1, 2])
    )
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)
    assert all(value.any() for name, value in one.items() if value.ndim > 1)


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_stand_in_text_encoders_have_the_stated_size(tmp_path, kind):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.format(encoder=tmp_path / "none").replace("kind: bert", f"kind: {kind}"))
    space = SearchSpace.load(path)
    loaded = checkpoint.load(random_checkpoint(space, space.random(0), tmp_path / "random"))
    assert loaded.info.text_encoder == f"random: '{tmp_path / 'none'}' is not installed"
    tokenizer, model = PromptEncoder(loaded.space.text).load()
    assert (model.config.num_hidden_layers, model.config.vocab_size, model.config.hidden_size) == (1, 300, 16)
    ids = tokenizer(["aé"], padding="max_length", max_length=8)["input_ids"][0]
    assert len(ids) == 8 and len(set(ids[:3])) == 3 and ids[3:] == [tokenizer.pad_token_id] * 5
    assert not (PromptEncoder(loaded.space.text)(["a"]) == PromptEncoder(loaded.space.text)(["b"])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: [x for x in w if x not in ("--space", w[4])], "--architecture needs --space S"),
        (lambda w: [*w, "--checkpoint", "x"], "give --checkpoint DIR, or --architecture A.json and --space S"),
        (lambda w: ["export", *w[5:]], "give --checkpoint DIR, or --architecture A.json and --space S"),
        (lambda w: ["export", "--checkpoint", "x", *w[3:]], "--space belongs to --architecture"),
        (lambda w: ["export", "--checkpoint", "x", *w[5:], "--seed", "3"], "--seed belongs to --architecture"),
        (lambda w: [*w[:3], "--space", "demo", *w[5:]], "was made for search space 'small'"),
        (lambda w: ["export", "--architecture", w[4], *w[3:]], "space.yaml"),
    ],
    ids=["no space", "both", "neither", "space", "seed", "other space", "no architecture"],
)
def test_wrong_calls(files, tmp_path, capsys, change, message):
    out = tmp_path / "out"
    assert main(change(words(files, out, "recipe"))) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "export.json").exists()


def test_a_missing_encoder_without_a_stated_size_is_an_error(files, tmp_path, capsys):
    arch, space = files
    lines = [line for line in space.read_text().splitlines() if not line.startswith("text_encoder")]
    space.write_text("\n".join(lines))
    assert main(words((arch, space), tmp_path / "out")) == 2
    assert "no-such-encoder" in capsys.readouterr().err
