"""LiteRT models compute the same as torch ."""

import json

import pytest

from nas import checkpoint
from nas.errors import MissingDependency
from nas.export import litert, litert_models
from nas.export.samples import real_samples


@pytest.mark.slow
def test_all_three_parts_match_torch(clip_checkpoint, exported_litert):
    loaded = checkpoint.load(clip_checkpoint)
    for name, samples in real_samples(loaded).items():
        assert litert_models.litert_error(exported_litert / f"{name}.tflite", samples) < 1e-5
    files = {entry["path"] for entry in json.loads((exported_litert / "export.json").read_text())["litert"]["files"]}
    assert {"denoiser.tflite", "decoder.tflite", "text_encoder.tflite"} <= files


def test_missing_converter_error_names_the_extra(tiny_checkpoint, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingDependency, match=r"nas-video\[litert\]"):
        litert(tiny_checkpoint, tmp_path)
