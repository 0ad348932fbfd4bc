"""Exported text encoders use their tokens and their attention mask."""

from types import SimpleNamespace

import pytest
import torch

from nas import checkpoint
from nas.conversion.convert import exported_program, to_coreml, to_litert
from nas.conversion.mil import Program
from nas.export import packages, parts
from nas.export.check import relative_error
from nas.models.text_encoder import PromptEncoder
from nas.spaces import SearchSpace


@pytest.fixture(scope="module")
def text(tiny_checkpoint):
    return checkpoint.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def part(text):
    return parts.text_encoder(text)


def test_graph_matches_torch_with_padded_tokens(text, part):
    graph = exported_program(part.module, part.inputs).module()
    encode = PromptEncoder(text.space.text)
    for prompt in parts.PROMPTS:
        tokens = parts.token_inputs(text.space.text, prompt)
        expected = encode([prompt])
        assert torch.allclose(graph(*tokens.values()), expected, atol=1e-5), prompt
    assert not tokens["attention_mask"].all()  # the empty prompt is mostly padding


def test_same_tensor_for_two_inputs_gives_two_inputs(part):
    """torch.export merges arguments that are the same tensor; the graph then ignores one of them."""
    ones = torch.ones(1, 8, dtype=torch.int32)
    graph = exported_program(part.module, {"input_ids": ones, "attention_mask": ones}).module()
    ids = torch.tensor([[2, 5, 6, 10, 12, 13, 3, 0]], dtype=torch.int32)
    mask = (ids != 0).int()
    assert torch.allclose(graph(ids, mask), part.module(ids, mask), atol=1e-5)


@pytest.fixture(scope="module")
def one_tensor(part):
    """The same tensor for both inputs, which is what a conversion may get wrong; test_faults.py has two tensors."""
    return dict.fromkeys(part.inputs, torch.ones(1, 8, dtype=torch.int32))


def test_core_ml_program_looks_up_embeddings_by_token(part, one_tensor):
    from coremltools.converters.mil.frontend.milproto.load import load

    model = to_coreml(part.module, one_tensor, part.output)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    table = next(op for op in program.operations if op.op_type == "gather" and op.x.shape == (15, 32))
    assert sources(table.indices) == {"input_ids"}


def sources(value) -> set[str]:
    """The program's inputs that a value is computed from."""
    if value.op is None:
        return {value.name}
    inputs = [x for x in value.op.inputs.values() if hasattr(x, "op")]
    return set().union(*(sources(x) for x in inputs)) if inputs else set()


@pytest.mark.slow
def test_litert_model_matches_torch_with_padded_tokens(text, part, one_tensor, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(to_litert(part.module, one_tensor, tmp_path / "text.tflite"))).get_signature_runner()
    for prompt in parts.PROMPTS:
        tokens = parts.token_inputs(text.space.text, prompt)
        outputs = run(**{name: x.numpy() for name, x in tokens.items()})
        expected = PromptEncoder(text.space.text)([prompt])
        assert torch.allclose(torch.from_numpy(next(iter(outputs.values()))), expected, atol=1e-4), prompt


@pytest.mark.slow
def test_minilm_in_float16_is_close_to_torch():
    text = SearchSpace.load("demo").text
    part = parts.text_encoder(SimpleNamespace(space=SimpleNamespace(text=text)))
    program = Program.of(packages.convert(part))
    for prompt in (*parts.PROMPTS[:-1], "the digit seven moves right"):
        tokens = parts.token_inputs(text, prompt)
        result = program.run(tokens, float16=True)
        assert relative_error(result.outputs["context"], PromptEncoder(text)([prompt])) < 2e-3, prompt
        assert not result.not_finite and result.peak.value < 20_000
