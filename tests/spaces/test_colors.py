"""Operator colors are distinguishable with color vision deficiency, and do not change."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nas.report import formatting
from nas.spaces import Operator, SearchSpace, colors, operator_kinds, operator_spec

VISION = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: str) -> np.ndarray:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_operators_can_be_told_apart_by_everybody():
    for name, matrix in VISION.items():
        seen = {kind: lab(np.asarray(matrix) @ linear(spec.color)) for kind, spec in operator_kinds().items()}
        for a, b in itertools.combinations(seen, 2):
            assert np.linalg.norm(seen[a] - seen[b]) > 20, f"{a} and {b} look alike with {name}"


def test_choices_of_one_kind_get_shades_and_every_choice_a_color_of_its_own():
    operators = {"small": Operator("Conv3D"), "large": Operator("Conv3D", (("kernel", 5),)), "a": Operator("Conv1D")}
    space = SearchSpace("mine", {"s": ["none", *operators, *map(str, range(9))]}, operators)
    found = colors.choice_colors(space)
    assert found["small"] == operator_spec("Conv3D").color != found["large"]
    assert len(set(found.values())) == len(found) == 12


@given(st.floats(1e-4, 1e9))
def test_three_figures_are_the_number(value):
    assert math.isclose(float(formatting.format_number(value).replace(",", "")), value, rel_tol=6e-3)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 6))
def test_ticks_are_few_and_inside(low, width, about):
    found = formatting.ticks(low, low + width, about)
    assert 1 <= len(found) <= 2 * about + 2
    assert found == sorted(set(found))
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width * (1 + 1e-6) + 1e-9 for tick in found)


@given(st.floats(1e-6, 1e6), st.floats(1.2, 1e6))
def test_log_ticks_are_inside(low, factor):
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in formatting.log_ticks(low, low * factor))


def test_small_words():
    assert [formatting.duration(s) for s in (0.42, 12.3, 59.7, 185, 7800)] == [
        "0.4 s",
        "12 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert [formatting.count(n) for n in (640, 1230, 999_999, 328.2e6)] == ["640", "1.23K", "1.00M", "328M"]
    assert [formatting.megabytes(m) for m in (0.0025, 0.587, 1234.5)] == ["2.50 KB", "0.587 MB", "1,234 MB"]
    assert formatting.join_words(["a", "b", "c"]) == "a, b and c"
    assert formatting.format_number(float("nan")) == formatting.milliseconds(None) == "\N{EN DASH}"
