"""`nas export --bits` and `--target` end to end: every palettized tensor's error is in the manifest."""

import json

import pytest

from nas import checkpoint
from nas.cli import main
from nas.export import check_package, operations
from nas.export.packages import read_package


@pytest.mark.slow
def test_palettized_export_for_ios_18_records_the_error_of_each_tensor(small_checkpoint, tmp_path):
    bits = 6
    command = ["export", "--checkpoint", str(small_checkpoint), "--format", "coreml", "--out", str(tmp_path)]
    assert main([*command, "--bits", str(bits), "--target", "iOS18"]) == 0
    loaded, spec = checkpoint.load(small_checkpoint), read_package(tmp_path / "denoiser.mlpackage")
    kinds = [operation.type for operation in operations.program_operations(spec)]
    assert spec.specificationVersion == 9 and "scaled_dot_product_attention" in kinds
    check_package(tmp_path / "denoiser.mlpackage", loaded.architecture, loaded.space)
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
