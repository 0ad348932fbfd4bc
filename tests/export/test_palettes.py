"""`nas export --bits` end to end: every palettized tensor's error is in the manifest."""

import json

import pytest

from nas.cli import main


@pytest.mark.slow
def test_palettized_export_records_the_error_of_each_tensor(small_checkpoint, tmp_path):
    bits = 6
    command = ["export", "--checkpoint", str(small_checkpoint), "--format", "coreml", "--out", str(tmp_path)]
    assert main([*command, "--bits", str(bits)]) == 0
    entry = json.loads((tmp_path / "export.json").read_text())["coreml"]
    assert entry["app"]["clip"]["fps"] == 12  # the checkpoint's
    for name in ("denoiser", "decoder"):
        figures = entry["checks"][name]
        assert entry["app"]["models"][name]["weight_bits"] == bits
        assert len(figures["palettes"]) > 5 and all(0 < error < 3 / 2**bits for error in figures["palettes"].values())
        assert figures["error_conversion"] < 1e-4 < figures["error_float32"] < 0.1
    assert (
        entry["checks"]["text_encoder"]["palettes"] == {}
        and entry["app"]["models"]["text_encoder"]["weight_bits"] == 16
    )
