"""Evaluators without training: stored score tables, external commands and Python callables by their names.

An evaluator is any callable `Architecture -> float`, higher is better. One that returns a generator of intermediate
scores can be pruned. Evaluators on the supernet are in `nas.training`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.config import build
from nas.csv_files import read_csv
from nas.errors import ConfigError, NasError, shown, suggestion
from nas.files import content_hash, open_regular, read_json, short_hash
from nas.search.evaluators.imported import REFERENCE, ImportedEvaluator
from nas.search.problem import Pairs, Scores
from nas.search.workers import Evaluator
from nas.spaces import Architecture, SearchSpace

LARGEST_SCORE = 1e100
"""Upper limit, so that sums of scores do not overflow."""


class EvaluatorError(NasError, RuntimeError):
    """An evaluator failed, or returned something other than a score."""


@dataclass(frozen=True)
class ScoreTable:
    """Stored scores: a sum over slots, plus one over pairs of slots.

    Attributes:
        scores: `{slot: {choice: score}}`; anything else scores 0.
        pairs: `{(slot, slot): {(choice, choice): score}}`.
    """

    scores: Scores
    pairs: Pairs = field(default_factory=dict)

    def __call__(self, arch: Architecture) -> float:
        choices = arch.choices
        score = sum((self.scores.get(slot, {}).get(choice, 0.0) for slot, choice in choices.items()), 0.0)
        for (first, second), table in self.pairs.items():
            score += table.get((choices.get(first, ""), choices.get(second, "")), 0.0)
        return float(score)

    def names(self) -> Iterator[tuple[str, set[str]]]:
        """Pairs of a slot and its choices in the table."""
        yield from ((slot, set(choices)) for slot, choices in self.scores.items())
        for slots, table in self.pairs.items():
            yield from ((slot, {choices[i] for choices in table}) for i, slot in enumerate(slots))

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read CSV with the columns slot, choice, score; or JSON.

        JSON: `{"scores": {slot: {choice: score}}, "pairs": [{"slots": [a, b], "choices": [c, d], "score": s}, ...]}`.

        Raises:
            ConfigError: the file is invalid; the message names the line or the field.
        """
        path = Path(path)
        return _from_csv(path) if path.suffix == ".csv" else _from_json(path)


@dataclass(frozen=True)
class _Pair:
    slots: tuple[str, str]
    choices: tuple[str, str]
    score: Any


@dataclass(frozen=True)
class _PairsFile:
    pairs: tuple[_Pair, ...]


def _from_csv(path: Path) -> ScoreTable:
    found = read_csv(path, "score table", ("slot", "choice", "score"))
    columns = {name: place for place, name in enumerate(found.header)}
    if len(columns) < len(found.header):
        raise ConfigError(f"{path}: a score table has each column once; found {', '.join(found.header)[:200]}")
    scores: Scores = {}
    for row, line in zip(found.rows, found.lines):
        slot, choice, score = (row[columns[name]].strip() for name in ("slot", "choice", "score"))
        if choice in scores.setdefault(slot, {}):
            raise ConfigError(f"{path}:{line}: {shown(choice)} of slot {shown(slot)} has two rows; keep one")
        scores[slot][choice] = parse_score(found.number(score), f"{path}:{line}: score")
    return ScoreTable(scores)


def _from_json(path: Path) -> ScoreTable:
    value = read_json(path, "score table", dict)
    if not isinstance(value.get("scores"), dict):
        raise ConfigError(f"{path}: scores: missing; expected {{slot: {{choice: score}}}}")
    scores: Scores = {}
    for slot, choices in value["scores"].items():
        if not isinstance(choices, dict):
            raise ConfigError(f"{path}: scores.{slot}: expected {{choice: score}}, found {shown(choices)}")
        scores[slot] = {
            choice: parse_score(score, f"{path}: scores.{slot}.{choice}") for choice, score in choices.items()
        }
    pairs: Pairs = {}
    for i, entry in enumerate(build(_PairsFile, {"pairs": value.get("pairs", [])}, str(path)).pairs):
        table = pairs.setdefault(entry.slots, {})
        if entry.choices in table or entry.choices[::-1] in pairs.get(entry.slots[::-1], {}):
            raise ConfigError(f"{path}: pairs[{i}]: these two choices have a score already; keep one")
        table[entry.choices] = parse_score(entry.score, f"{path}: pairs[{i}].score")
    return ScoreTable(scores, pairs)


@dataclass(frozen=True)
class CommandEvaluator:
    """An external command that scores an architecture, such as `"python evaluate.py --arch {arch}"`.

    `{arch}` becomes the path of an architecture file. The last line of the command's standard output is JSON: a number,
    or an object with the key `score`. No shell is involved.

    Attributes:
        timeout_s: after which it is killed and counts as failed.
        retries: how often a failed call is repeated before `EvaluatorError`.
    """

    command: str
    timeout_s: float = 24 * 3600.0
    retries: int = 1

    def __post_init__(self) -> None:
        if "{arch}" not in self.command:
            raise ConfigError(
                f"evaluator '{self.command}': {{arch}} is missing; put it where the path of the architecture file belongs"
            )
        try:
            shlex.split(self.command)
        except ValueError as error:
            raise ConfigError(f"evaluator '{self.command}': {error}; close or escape the quotation mark") from None

    @property
    def identity(self) -> str:
        """Changes with the command's text and with the content of the script that it runs."""
        script = _script(shlex.split(self.command))
        digest = "" if script is None else content_hash(script)
        return f"{type(self).__name__} {short_hash([self.command, digest])}"

    def __call__(self, arch: Architecture) -> float:
        """
        Raises:
            EvaluatorError: all attempts failed; the message has the last reason.
        """
        with tempfile.TemporaryDirectory(prefix="nas-") as folder:
            file = arch.save(Path(folder) / "architecture.json")
            words = [word.replace("{arch}", str(file)) for word in shlex.split(self.command)]
            for attempt in range(self.retries + 1):
                try:
                    return self._run(words)
                except EvaluatorError:
                    if attempt == self.retries:
                        raise
                    time.sleep(min(2.0**attempt, 30.0))
        raise AssertionError("unreachable")

    def _run(self, words: list[str]) -> float:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout_s)
        except subprocess.TimeoutExpired:
            raise EvaluatorError(f"evaluator '{words[0]}': no answer within {self.timeout_s:g} s") from None
        except OSError as error:
            raise EvaluatorError(f"evaluator '{words[0]}': cannot be run: {error.strerror}") from None
        if done.returncode < 0:
            killed = signal.strsignal(-done.returncode)
            raise EvaluatorError(f"evaluator '{words[0]}': was killed by signal {-done.returncode} ({killed})")
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise EvaluatorError(f"evaluator '{words[0]}': exit status {done.returncode}: {last}")
        lines = done.stdout.strip().splitlines()
        try:
            value = json.loads(lines[-1])
        except (IndexError, json.JSONDecodeError):
            shown = lines[-1] if lines else "nothing"
            raise EvaluatorError(f"evaluator '{words[0]}': its last line must be JSON, found {shown}") from None
        if isinstance(value, Mapping):
            value = value.get("score")
        if not isinstance(value, int | float) or isinstance(value, bool) or _overflows(value):
            raise EvaluatorError(
                f"evaluator '{words[0]}': expected a number or an object with 'score', found {str(value)[:60]!r}"
            )
        return float(value)


def _script(words: list[str]) -> Path | None:
    """The script among a command's words: the first one that is a text file, before any `-m` or `-c`.

    A first word without a slash is looked up in PATH, not in the working folder.
    """
    for number, word in enumerate(words):
        if word in ("-m", "-c") or "{arch}" in word:
            return None
        path = Path(word)
        is_interpreter = number == 0 and ("/" not in word or path.name.startswith("python"))
        if not is_interpreter and os.path.isfile(path) and _is_text(path):
            return path
    return None


def _is_text(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return b"\0" not in file.read(1024)
    except OSError:
        return False


def parse_evaluator(text: str, space: SearchSpace | None = None) -> Evaluator:
    """An evaluator from the command line: a score table (.json or .csv), a command with `{arch}`, or `module:function`.

    Raises:
        ConfigError: none of these, a score table with slots or choices that `space` does not have, or a callable that
            cannot be imported.
    """
    if "{arch}" in text:
        return CommandEvaluator(text)
    if Path(text).suffix in (".json", ".csv"):
        table = ScoreTable.load(text)
        if space is not None:
            _check_names(table, space, text)
        return table
    if REFERENCE.fullmatch(text):
        return ImportedEvaluator(text)
    raise ConfigError(
        f"evaluator '{text}': give a score table (.json, .csv), a command with {{arch}} in it, or a Python callable as "
        "module:function"
    )


def _check_names(table: ScoreTable, space: SearchSpace, file: str) -> None:
    for slot, choices in table.names():
        if slot not in space.slots:
            raise ConfigError(f"{file}: '{space.name}' has no slot '{slot}'{suggestion(slot, space.slots)}")
        for choice in choices:
            if choice not in space.slots[slot]:
                known = suggestion(choice, space.slots[slot])
                raise ConfigError(f"{file}: slot '{slot}' has no choice '{choice}'{known}")


def _overflows(value: int | float) -> bool:
    return isinstance(value, int) and abs(value) > sys.float_info.max


def parse_score(value: object, where: str) -> float:
    """A score in a file.

    Raises:
        ConfigError: not a number, or larger than `LARGEST_SCORE`.
    """
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and abs(score := float(value)) <= LARGEST_SCORE:  # type: ignore[arg-type]
            return score
    raise ConfigError(f"{where}: expected a number, found {shown(value)}")
