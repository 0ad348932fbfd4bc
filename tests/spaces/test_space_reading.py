"""Reading hand-edited and invalid search spaces and architectures."""

import json

import pytest

from nas.errors import NasError
from nas.spaces import Architecture, Backbone, Latent, Operator, SearchSpace

SPACE = """\
name: mine
backbone: {channels: [32, 64], heads: 4, norm_groups: 8}
latent: {channels: 4, frames: 4, height: 8, width: 8}
text: {tokens: 8, dim: 32}
batch: 1
depth: 1
operators:
  none:
  Conv1D: {kernel: 3}
  wide: {kind: SelfAttention1D, heads: 4}
"""


def load(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return SearchSpace.load(path)


def refused(action):
    with pytest.raises(NasError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def test_merge_keys_make_the_same_space(tmp_path):
    merged = SPACE.replace("  Conv1D: {kernel: 3}", "  Conv1D: &conv {kernel: 3}\n  Conv3D: {<<: *conv}")
    plain = SPACE.replace("  Conv1D: {kernel: 3}", "  Conv1D: {kernel: 3}\n  Conv3D: {kernel: 3}")
    assert load(tmp_path, merged).hash == load(tmp_path, plain).hash


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("norm_groups: 8", "norm_groups: 0", "space.yaml:2: backbone.norm_groups: must be at least 1"),
        ("heads: 4, norm", "heads: -1, norm", "space.yaml:2: backbone.heads: must be at least 1"),
        ("[32, 64]", "[]", "backbone.channels is empty"),
        ("[32, 64]", "[-32]", "backbone.channels: must be at least 1"),
        ("[32, 64]", "[1000000000000]", "backbone.channels: must be at least 1 and at most"),
        ("[32, 64]", f"[{', '.join(['32'] * 40)}]", "40 levels; at most 16 are supported"),
        ("frames: 4", "frames: 0", "space.yaml:3: latent.frames: must be at least 1"),
        ("height: 8", "height: -8", "latent.height: must be at least 1"),
        ("width: 8", "width: " + "9" * 30, "latent.width: must fit 64 bits"),
        ("tokens: 8", "tokens: 0", "text.tokens: must be at least 1"),
        ("batch: 1", "batch: 0", "space.yaml:5: batch: must be at least 1"),
        ("batch: 1", "batch: 99999999999", "batch: must be at least 1 and at most"),
        ("depth: 1", "depth: 1000000000", "space.yaml:6: depth: must be at least 1 and at most 64"),
        ("kernel: 3", "kernel: 2000001", "kernel must be a positive odd number up to"),
        ("kernel: 3", "kernel: [3]", "kernel must be a positive odd number up to 1024, not a list of 1 values"),
        ("kernel: 3", "3: kernel", "Conv1D has no 3"),
        ("heads: 4}", "heads: .nan}", "heads must be a positive whole number"),
        ("kind: SelfAttention1D", "kind: [SelfAttention1D]", "unknown operator kind a list of 1 values"),
        ("kind: SelfAttention1D", "kind: null", "unknown operator kind None"),
        ("name: mine", 'name: "a\\nb"', "the name 'a\\nb' is not one line of text"),
        ("name: mine", "name: 2024", "name: expected str, found 2024; put it in quotes"),
        ("  wide: {", "  no: {", "the key False is not text; put it in quotes"),
        ("operators:", "operators: []\nx:", "operators: expected a mapping, found an empty list"),
        ("text: {tokens: 8, dim: 32}", "text:", "a backbone needs 'latent' or 'clip', and 'text', beside it"),
        ("latent: {", "latent: &a {x: *a, ", "*a contains itself"),
    ],
)
def test_a_space_that_cannot_be_meant_is_one_line(old, new, says, tmp_path):
    assert old in SPACE and says in refused(lambda: load(tmp_path, SPACE.replace(old, new)))


def test_objects_made_in_python_are_held_to_the_same():
    assert "latent.frames" in refused(lambda: Latent(4, 0, 8, 8))
    assert "norm_groups" in refused(lambda: Backbone((32,), norm_groups=0))
    assert "kernel" in refused(lambda: Operator("Conv1D", (("kernel", 10**4000 + 1),)))
    assert "one line of text" in refused(lambda: SearchSpace("a", {"s\n": ["x", "y"]}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "choices: missing"),
        ("{}", "choices: missing"),
        ('{"choices": null}', "choices: expected a mapping, found None"),
        ('{"choices": ["none"]}', "choices: expected a mapping, found a list"),
        ('{"choices": {"s": 3}}', "choices.s: expected str, found 3"),
        ('{"choices": {"s": "a", "s": "b"}}', "'s' is given twice"),
        ('{"choices": {"s": "\\ud800"}}', "half of a surrogate pair"),
        ('{"choices": {}, "space_hash": 7}', "space_hash: expected str, found 7"),
        ('{"choices": ' + "[" * 5000, "nested more than 64 deep"),
    ],
)
def test_an_architecture_that_cannot_be_read_is_one_line(text, says, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert says in refused(lambda: Architecture.load(path))


def test_an_architecture_with_notes_beside_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({"space": "s", "space_hash": "", "choices": {"x": "none"}, "note": "mine"}))
    assert Architecture.load(path).choices == {"x": "none"}
