"""CLIP as Stable Diffusion has it: the same text model, tiny and untrained, saved here and read from its folder."""

import json
import shutil

import pytest
import torch

from nas.errors import ConfigError
from nas.export.parts import EncodeText
from nas.models.text_encoder import PromptEncoder
from nas.spaces import Text

TOKENS, DIM = 12, 32


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A diffusers pipeline's `text_encoder/` and `tokenizer/`, the vocabulary made of letters and one merge."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pipeline")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    end = len(words) - 1
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=DIM, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=TOKENS, bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.mark.parametrize("given", [".", "text_encoder"])
def test_the_context_is_what_stable_diffusion_would_make(pipeline, given):
    """The ids by hand, no attention mask, the last hidden state after the final norm."""
    from transformers import CLIPTextModel

    encoder = PromptEncoder(Text(TOKENS, DIM, str(pipeline / given)))
    context = encoder(["a cat", "b"])
    vocabulary = json.loads((pipeline / "vocab.json").read_text())
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    texts = [["a</w>", "cat</w>"], ["b</w>"]]
    ids = [[start, *(vocabulary[word] for word in text), end] for text in texts]
    ids = torch.tensor([row + [end] * (TOKENS - len(row)) for row in ids])
    model = CLIPTextModel.from_pretrained(pipeline / "text_encoder").eval()
    with torch.no_grad():
        torch.testing.assert_close(context, model(input_ids=ids).last_hidden_state)
    assert context.shape == (2, TOKENS, DIM)


def test_what_is_exported_gives_the_context_that_was_trained_on(pipeline):
    encoder = PromptEncoder(Text(TOKENS, DIM, str(pipeline)))
    tokenizer, model = encoder.load()
    inputs = tokenizer(["a cat"], padding="max_length", max_length=TOKENS, return_tensors="pt")
    assert inputs["attention_mask"].min() == 0
    with torch.no_grad():
        torch.testing.assert_close(EncodeText(model)(**inputs), encoder(["a cat"]), rtol=1e-4, atol=1e-4)


def test_a_long_caption_is_cut_and_still_ends(pipeline):
    encoder = PromptEncoder(Text(TOKENS, DIM, str(pipeline)))
    a, b = encoder(["a " * 40, "a " * 20])
    assert torch.equal(a, b)


def test_what_does_not_fit_is_one_line(pipeline, tmp_path):
    with pytest.raises(ConfigError, match=f"has width {DIM}, but the search space has text.dim 768"):
        PromptEncoder(Text(TOKENS, 768, str(pipeline)))(["a"])
    with pytest.raises(ConfigError, match=f"reads at most {TOKENS} tokens, but the search space has text.tokens 77"):
        PromptEncoder(Text(77, DIM, str(pipeline)))(["a"])
    with pytest.raises(ConfigError, match=r"'clib': no saved encoder in clib.*'minilm', 'clip'.*text_encoder/"):
        PromptEncoder(Text(77, 768, "clib"))(["a"])
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text('{"model_type": "clip_text_model"}')
    with pytest.raises(ConfigError, match="cannot be read"):
        PromptEncoder(Text(77, 768, str(tmp_path)))(["a"])


def test_clip_is_stable_diffusions_out_of_the_hubs_cache(pipeline, tmp_path, monkeypatch):
    """A cache as `hf download` leaves it, on a machine that reaches no Hub."""
    import huggingface_hub

    repository = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(pipeline, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    context = PromptEncoder(Text(TOKENS, DIM, "clip"))(["a cat"])
    assert torch.equal(context, PromptEncoder(Text(TOKENS, DIM, str(pipeline)))(["a cat"]))


def test_clip_that_cannot_be_had_says_how_to_get_it(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"text encoder 'clip'.*hf download .*--local-dir DIR") as said:
        PromptEncoder(Text(77, 768, "clip"))(["a"])
    assert "unet" not in str(said.value) and "\n" not in str(said.value)  # the text encoder alone, not gigabytes


def test_a_prompt_that_is_no_unicode_is_one_line(space):
    with pytest.raises(ConfigError, match=r"prompt 'a \\udce9': is not valid Unicode"):
        PromptEncoder(space.text)(["fine", "a \udce9"])
