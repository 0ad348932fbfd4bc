"""The litert runtime: conversion in every variant, the cache, differences, memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.caches import user_cache
from nas.conversion.variants import variants_of
from nas.costs.workload_counts import count_ops
from nas.errors import ConfigError, MissingDependency
from nas.profiling.compile import COPIES
from nas.profiling.runtimes import litert
from nas.profiling.runtimes.base import InModelWorkload
from nas.profiling.runtimes.eager import EagerRuntime
from nas.profiling.runtimes.litert import LitertRuntime
from nas.profiling.workers.litert_convert import _evict, convert_cached, module_and_inputs
from nas.spaces import Operator, SearchSpace, Workload

CONV3D = Workload(Operator("Conv3D", {"kernel": 3}), (1, 32, 4, 8, 8))
CROSS = Workload(Operator("CrossAttention1D", {"heads": 2, "context": "text+anchor"}), (1, 8, 4, 6, 6), (1, 5, 12))


@pytest.fixture(scope="module")
def runtime(converted_models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(converted_models))
        cache = user_cache("litert")
    with LitertRuntime(cache=cache) as runtime:
        yield runtime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "variant"), [(CONV3D, variant) for variant in variants_of("Conv3D")] + [(CROSS, "reference")], ids=str
)
def test_a_converted_chain_computes_what_the_reference_computes(runtime, workload, variant):
    from ai_edge_litert.interpreter import Interpreter

    model = convert_cached(workload, variant, COPIES, runtime.cache)
    reference, inputs = module_and_inputs(workload, "reference", COPIES)
    runner = Interpreter(str(model.path)).get_signature_runner()
    given = next(iter(runner(**{name: x.numpy() for name, x in inputs.items()}).values()))
    with torch.inference_mode():
        wanted = reference(**inputs).numpy()
    assert np.abs(given - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert model.params == count_ops(workload).params and (model.variant, model.copies) == (variant, COPIES)


@pytest.mark.slow
def test_a_model_is_converted_once_for_all_runs(runtime):
    first = runtime.converted(CROSS)
    written = os.stat(first.path).st_ino
    with LitertRuntime(cache=runtime.cache) as again:
        assert again.converted(CROSS) == first
        assert again.converted(CROSS, copies=COPIES).path != first.path
    assert os.stat(first.path).st_ino == written


@pytest.mark.slow
def test_operator_is_timed_in_one_of_its_variants(runtime):
    session = runtime.open(CONV3D)
    assert session.stats.variant in variants_of("Conv3D") and session.stats.params == count_ops(CONV3D).params
    assert len(session.block(9)) == 9
    session.close()


@pytest.mark.slow
def test_memory_agrees_with_torch(runtime):
    """Against torch's own count; the two runtimes keep about the same tensors of this operator, and its weights are not
    among them."""
    wide = Workload(Operator("SelfAttention1D", {"heads": 8}), (1, 256, 8, 16, 16))
    session = runtime.open(wide)
    with EagerRuntime() as eager:
        other = eager.open(wide)
        assert session.stats.memory_mb == pytest.approx(other.stats.memory_mb, rel=0.15)
        other.close()
    session.close()


@pytest.mark.slow
def test_operator_in_model_is_counted_once_per_slot(runtime, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nlatent: {channels: 4, frames: 4, height: 8, width: 8}\n"
        "text: {tokens: 4, dim: 16, encoder: minilm}\ndepth: 2\nonly_sites: [down.0.0]\n"
        "backbone: {channels: [32], layers_per_block: 1, attention_levels: [], mid: false, heads: 2, norm_groups: 8}\n"
        "operators: {none: , Conv3D: {kernel: 3}}\n"
    )
    space = SearchSpace.load(str(path))
    workload = space.workload("down.0.0/0", "Conv3D")
    assert str(workload) == str(CONV3D)  # converted already
    placed = InModelWorkload(space, workload)
    session = runtime.open(placed)
    assert placed.copies == 2 and len(session.block(3)) == 3
    assert session.stats.params == count_ops(workload).params
    session.close()


def test_a_chain_is_operators_of_one_shape_with_weights_of_their_own():
    chain, inputs = module_and_inputs(CROSS, "reference", 3)
    first, second, third = chain.operators
    with torch.inference_mode():
        wanted = third(second(first(*inputs.values()), inputs["context"]), inputs["context"])
        assert torch.equal(chain(**inputs), wanted)
    for one, other in zip(first.parameters(), second.parameters()):
        assert not torch.equal(one, other)  # equal weights would let a converter share what is done with the text


def test_every_part_of_a_pipeline_takes_its_inputs_by_name():
    """As the converter hands them over: it refused the text encoder and the decoder for theirs."""
    space = SearchSpace.load("demo")
    for workload in (space.backbone_workload(), space.text_workload(), space.decoder_workload()):
        module, inputs = module_and_inputs(workload, "", 1)
        with torch.inference_mode():
            assert module(**inputs).isfinite().all(), str(workload)


def test_variants_have_the_weights_of_the_reference():
    x = module_and_inputs(CONV3D, "reference", 2)[1]
    with torch.inference_mode():
        outputs = [module_and_inputs(CONV3D, variant, 2)[0](**x) for variant in variants_of("Conv3D")]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-5, atol=1e-5)


def test_missing_library_is_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setattr(litert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'nas-video\[litert\]'"):
        LitertRuntime()


def test_unknown_device_suggests_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        LitertRuntime("locl")


def test_cache_deletes_the_least_recently_used_models(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = user_cache("litert")
    folder.mkdir(parents=True)
    assert folder.is_relative_to(tmp_path)
    monkeypatch.setattr("nas.profiling.workers.litert_convert.CACHE_LIMIT_BYTES", 250)
    for age, name in enumerate(("new", "old", "oldest")):
        file = folder / f"{name}.tflite"
        file.write_bytes(b"x" * 100)
        Path(file).with_suffix(".json").write_text("{}")
        os.utime(file, (1000 - age, 1000 - age))
    _evict(folder, keep=folder / "oldest.tflite")
    assert {path.name for path in folder.iterdir()} == {"new.tflite", "new.json", "oldest.tflite", "oldest.json"}


@pytest.mark.slow
def test_each_precision_has_models_of_its_own(runtime):
    workload = Workload(Operator("SelfAttention1D", {"heads": 2}), (1, 32, 4, 4, 4))
    plain = runtime.converted(workload)
    assert "precision" not in runtime.describe()
    models = {}
    for precision in ("float16", "int8"):
        with LitertRuntime(cache=runtime.cache, precision=precision) as other:
            models[precision] = other.converted(workload)
            assert other.describe()["precision"] == precision and other.converted(workload) == models[precision]
    sizes = [model.path.stat().st_size for model in (models["int8"], models["float16"], plain)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 3
    assert models["int8"].weights_mb < 0.6 * plain.weights_mb
    assert models["float16"].weights_mb == plain.weights_mb  # XNNPACK unpacks it to float32


def test_an_unknown_precision_is_an_error():
    with pytest.raises(ConfigError, match="unknown precision 'int4' of runtime 'litert'"):
        LitertRuntime(precision="int4")
