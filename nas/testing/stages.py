"""Conformance tests for training stages: result files, resuming bit for bit, refusing another configuration.

class TestMyStage(StageTestCase):
    @pytest.fixture
    def case(self, inputs):
        config = MyConfig(steps=8, save_every=3)
        return StageCase("mine", my_stage, config, replace(config, seed=1), inputs)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nas.errors import ConfigError
from nas.models import safetensors_io
from nas.training.stage import Inputs, Stage, StageResult, run_in_folder
from nas.training.states import STATE
from nas.training.telemetry.history import HISTORY, History, read_history


@dataclass(frozen=True)
class StageCase:
    """A stage and the inputs it is checked with.

    Attributes:
        name: the stage's name, as in its `stage.json`.
        stage: its function.
        config: a configuration of a few steps that saves the state at least once before `interrupt_at`.
        other_config: one that differs from `config`.
        inputs: what the stage builds on; folders of finished stages.
        interrupt_at: the step at which `check_resume` interrupts the stage, before its row of the history is written.
    """

    name: str
    stage: Stage
    config: Any
    other_config: Any
    inputs: Inputs
    interrupt_at: int = 5

    def run(self, folder: Path) -> StageResult:
        """Run the stage in a folder, or resume it there."""
        return run_in_folder(self.name, self.stage, folder, self.config, self.inputs)


class StageTestCase:
    """Requirements on every stage. A subclass defines the fixture `case`."""

    @pytest.fixture
    def case(self) -> StageCase:
        raise NotImplementedError("define the fixture case")

    @pytest.fixture
    def straight(self, case: StageCase, tmp_path: Path) -> StageResult:
        """The result of a run that is not interrupted."""
        return case.run(tmp_path / "straight")

    def test_result_files(self, case: StageCase, straight: StageResult) -> None:
        check_result_files(case, straight)

    def test_interrupted_and_resumed_it_ends_bit_for_bit_alike(self, case, straight, tmp_path: Path) -> None:
        check_resume(case, straight.folder, tmp_path / "resumed")

    def test_another_config_is_refused(self, case: StageCase, straight: StageResult) -> None:
        check_refuses_other_config(case, straight.folder)


def check_result_files(case: StageCase, result: StageResult) -> None:
    """A finished stage holds its history, weights and a result; run again, it returns the same and writes nothing."""
    assert result.seconds >= 0 and result.folder.joinpath("result.json").exists(), f"{case.name}: wrote no result.json"
    for name, value in result.metrics.items():
        assert not isinstance(value, float) or math.isfinite(value), f"{case.name}: metric '{name}' is {value}"
    steps = [row["step"] for row in read_history(result.folder)]
    assert steps and steps == list(range(1, len(steps) + 1)), f"{case.name}: {HISTORY} does not have one row per step"
    assert list(_weights(result.folder)), f"{case.name}: wrote no weights"
    assert not (result.folder / STATE).exists(), f"{case.name}: left its training state behind"
    before = _modification_times(result.folder)
    again = case.run(result.folder)
    assert again == result, f"{case.name}: a finished stage, run again, returns another result"
    assert _modification_times(result.folder) == before, f"{case.name}: a finished stage, run again, writes files"


def check_resume(case: StageCase, straight: Path, folder: Path) -> None:
    """Interrupted and started again in `folder`, the stage ends bit for bit where the run in `straight` ended."""
    append = History.append

    def interrupted(self: History, step: int, losses: Any) -> None:
        if step == case.interrupt_at:
            raise KeyboardInterrupt
        append(self, step, losses)

    with mock.patch.object(History, "append", interrupted):
        try:
            case.run(folder)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError(f"{case.name}: took fewer than {case.interrupt_at} steps; lower interrupt_at")
    assert not (folder / "result.json").exists(), f"{case.name}: wrote its result before it was finished"
    assert (folder / STATE).exists(), f"{case.name}: saved no state before step {case.interrupt_at}; save more often"
    torch.seed()  # the stage must seed what it draws from the global random state
    case.run(folder)
    check_same_results(case.name, straight, folder)


def check_same_results(name: str, expected: Path, folder: Path) -> None:
    """Two folders of one stage hold the same history and, bit for bit, the same weights."""
    weights = {path.relative_to(expected) for path in _weights(expected)}
    assert weights == {path.relative_to(folder) for path in _weights(folder)}, f"{name}: other weight files"
    for path in weights:
        a, b = safetensors_io.load(expected / path), safetensors_io.load(folder / path)
        different = [
            key for key in a.keys() | b.keys() if key not in a or key not in b or not torch.equal(a[key], b[key])
        ]
        assert not different, f"{name}: {path}: resumed, '{sorted(different)[0]}' has other values"
    histories = [(path / HISTORY).read_text() for path in (expected, folder)]
    assert histories[0] == histories[1], f"{name}: resumed, {HISTORY} has other rows"


def check_refuses_other_config(case: StageCase, folder: Path) -> None:
    """A folder that was started with one configuration is not continued or read with another."""
    assert case.other_config != case.config, f"{case.name}: other_config must differ from config"
    try:
        dataclasses.replace(case, config=case.other_config).run(folder)
    except ConfigError as error:
        assert "\n" not in str(error), f"{case.name}: an error of more than one line"
    else:
        raise AssertionError(f"{case.name}: accepted another configuration in the same folder")


def _weights(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.safetensors") if not path.name.startswith("state"))


def _modification_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
