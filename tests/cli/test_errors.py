"""What a person gets wrong on the command line: one line on stderr that names the thing and the fix, exit status 2.

Each case is a call, what breaks it, and words that the line must have: those that name the thing, and those that say
what to do. Calls run in this process, a few of them as programs of their own.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from nas.cli import main
from nas.costs import LookupTable
from nas.spaces import SearchSpace
from tests.support.command_line import commands

SPACE = "name: two\nslots:\n  a: [none, x, y]\n  b: [none, x]\n"
MODEL = """\
name: small
latent: {channels: 4, frames: 8, height: 8, width: 8}
text: {tokens: 16, dim: 384, encoder: minilm}
backbone: {channels: [16, 32], heads: 2, norm_groups: 8}
operators: {none: , Conv1D: }
only_sites: [mid.0]
"""
RECIPE = "space: model.yaml\narchitecture: model.json\nstages:\n  decoder: {steps: 5, batch: 2}\n"
JOB = """\
name: quick
space: demo
budget: latency<=80%
previews: {captions: [the digit one moves left], steps: {adversarial: [4]}}
"""

COST = "nas cost --space {d}/space.yaml --table {d}/table.csv --arch {d}/arch.json"
SEARCH = (
    "nas search --space {d}/space.yaml --table {d}/table.csv --evaluator {d}/scores.json --out {d}/best.json --trials 3"
)
BUDGET = " --budget latency<=5ms"
TWO = "--table fast={d}/table.csv --table slow={d}/table.csv"
OPTIMUM = "nas optimum --space {d}/space.yaml --table {d}/table.csv --scores {d}/scores.json --out {d}/best.json"
SWEEP = "nas sweep --space {d}/space.yaml --table {d}/table.csv --scores {d}/scores.json --out {d}/front.csv"
PROFILE = "nas profile --space {d}/model.yaml --out {d}/new.csv"
TRANSFER = "nas transfer --from {d}/table.csv --space {d}/model.yaml --out {d}/new.csv"
TRAIN = "nas train {stage} --config {d}/recipe.yaml --out {d}/run"
GENERATE = "nas generate --checkpoint {d}/checkpoint --prompt 'a cat runs' --out {d}/clip.gif"
EXPORT = "nas export --checkpoint {d}/checkpoint --format {format} --out {d}/export"

Break = Callable[[Path], object]


def write(name: str, text: str) -> Break:
    return lambda d: (d / name).write_text(text)


def replace(name: str, old: str, new: str) -> Break:
    def broken(d: Path) -> None:
        text = (d / name).read_text()
        assert old in text
        (d / name).write_text(text.replace(old, new))

    return broken


def torn(name: str, keep: float = 0.6) -> Break:
    """The file as a crash of the machine leaves it: its first part."""

    def broken(d: Path) -> None:
        data = (d / name).read_bytes()
        (d / name).write_bytes(data[: int(len(data) * keep)])

    return broken


def gone(name: str) -> Break:
    return lambda d: (d / name).unlink()


def folder(name: str) -> Break:
    """A folder where a file is asked for."""

    def made(d: Path) -> None:
        (d / name).unlink(missing_ok=True)
        (d / name).mkdir()

    return made


def searched(d: Path) -> None:
    assert call(SEARCH + BUDGET, d) == 0


def all_of(*breaks: Break) -> Break:
    def broken(d: Path) -> None:
        for each in breaks:
            each(d)

    return broken


@dataclass(frozen=True)
class Case:
    """A call that fails.

    Attributes:
        call: with `{d}` where the files are.
        says: words of its one line.
        broken: what is done to the files before.
        missing: modules that cannot be imported.
    """

    name: str
    call: str
    says: tuple[str, ...]
    broken: Break = lambda d: None
    missing: tuple[str, ...] = ()


CASES = [
    # -- the call itself
    Case("no command", "nas", ("COMMAND", "--help")),
    Case("command typo", "nas serch", ("serch", "did you mean 'search'", "--help")),
    Case("argument missing", "nas cost --space demo", ("--table", "nas cost --help")),
    Case("option of the program", "nas --verison", ("--verison", "did you mean '--version'")),
    Case("group without a command", "nas table", ("COMMAND", "nas table --help")),
    Case("one argument too many", "nas report {d} {d}/more", ("{d}/more", "nas report --help")),
    Case("option without a value", "nas cost --space", ("--space", "nas cost --help")),
    Case("port beyond the last", "nas dashboard {d} --port 70000", ("--port", "70000", "65535")),
    Case("argument typo", COST + " --tabel x", ("--tabel", "did you mean '--table'", "nas cost --help")),
    Case("trials no number", SEARCH.replace("3", "three") + BUDGET, ("--trials", "three", "--help")),
    Case("trials negative", SEARCH.replace("--trials 3", "--trials -1") + BUDGET, ("--trials", "-1", "at least 1")),
    Case("workers zero", SEARCH + BUDGET + " --workers 0", ("--workers", "at least 1")),
    Case("threads zero", PROFILE + " --threads 0", ("--threads", "at least 1")),
    # -- search spaces
    Case("space typo", COST.replace("{d}/space.yaml", "demoo"), ("demoo", "did you mean 'demo'")),
    Case("space file typo", COST.replace("space.yaml", "spaec.yaml"), ("spaec.yaml", "did you mean 'space.yaml'")),
    Case("space is a folder", COST, ("space.yaml", "is a folder", "give the"), folder("space.yaml")),
    Case("space not YAML", COST, ("space.yaml:4", "not valid YAML"), write("space.yaml", "name: a\nslots:\n  a: [b\n")),
    Case("space binary", COST, ("space.yaml", "not a text file"), lambda d: (d / "space.yaml").write_bytes(b"\xff\xfe\x00")),
    Case("space empty", COST, ("space.yaml", "expected a mapping"), write("space.yaml", "")),
    Case("space key typo", COST, ("space.yaml:2", "slotz", "did you mean 'slots'"), replace("space.yaml", "slots", "slotz")),
    Case("space wrong type", COST, ("space.yaml:2", "slots", "expected"), write("space.yaml", "name: a\nslots: [1]\n")),
    Case("backbone key typo", PROFILE, ("model.yaml:4", "heds", "did you mean 'heads'"), replace("model.yaml", "heads", "heds")),
    Case("operator typo", PROFILE, ("model.yaml", "Conv1E", "did you mean"), replace("model.yaml", "Conv1D", "Conv1E")),
    Case("site typo", PROFILE, ("model.yaml:6", "mid.1", "did you mean 'mid.0'"), replace("model.yaml", "mid.0", "mid.1")),
    Case("heads that do not divide", PROFILE, ("SelfAttention1D", "3 heads"), replace("model.yaml", "Conv1D: ", "SelfAttention1D: {heads: 3}")),
    # -- lookup tables
    Case("no table", COST, ("table.csv", "no such lookup table"), gone("table.csv")),
    Case("table half a header", COST, ("table.csv", "column", "missing"), write("table.csv", "workload,laten\n")),
    Case("table empty", COST, ("table.csv", "empty", "workload,latency_ms"), write("table.csv", "")),
    Case("table torn", COST, ("table.csv", "no row for", "Measure them: nas profile"), torn("table.csv")),
    Case("table with words for numbers", COST, ("table.csv", "latency_ms", "fast"), replace("table.csv", "1.0,", "fast,")),
    Case("table negative", COST, ("table.csv", "latency_ms", "0 or more"), replace("table.csv", ",1.0,", ",-1.0,")),
    Case("table is YAML", COST, ("table.csv", "workload"), write("table.csv", SPACE)),
    Case("table of another space", COST.replace("arch.json", "empty.json"), ("table.csv", "no row for", "nas profile"), replace("space.yaml", "[none, x]", "[none, x, z]")),
    Case("metadata torn", COST, ("table.meta.json", "table metadata file is not valid JSON"), torn("table.meta.json")),
    Case("calibration torn", COST, ("table.calibration.json", "scale"), write("table.calibration.json", "{}")),
    Case("mixed sources", COST, ("table.csv", "estimated and measured", "--estimates"), lambda d: (d / "table.csv").write_text((d / "table.csv").read_text().replace("measured", "estimated", 1))),
    # -- architectures
    Case("no architecture", COST, ("arch.json", "no such architecture"), gone("arch.json")),
    Case("architecture torn", COST, ("arch.json:", "architecture file is not valid JSON"), torn("arch.json")),
    Case("architecture without choices", COST, ("arch.json", "choices", "nas search --out"), write("arch.json", "{}")),
    Case("architecture a list", COST, ("arch.json", "choices"), write("arch.json", "[1, 2]")),
    Case("architecture of another space", COST, ("arch.json", "made for search space", "use the space"), replace("space.yaml", "[none, x, y]", "[none, x, y, z]")),
    Case("choice typo", COST, ("arch.json", "xx", "did you mean 'x'"), write("arch.json", '{"choices": {"a": "xx"}}')),
    # -- budgets and search
    Case("budget typo", SEARCH + " --budget latencyy<=5ms", ("latencyy", "did you mean 'latency'")),
    Case("budget unit", SEARCH + " --budget latency<=5MB", ("latency", "ms")),
    Case("budget without unit", SEARCH + " --budget latency<=5", ("latency", "no unit", "ms")),
    Case("budget without number", SEARCH + " --budget latency", ("latency", "write it like latency<=80ms")),
    Case("budget infeasible", SEARCH + " --budget latency<=1us,params<=1", ("latency", "cheapest"), replace("space.yaml", "[none, x]", "[x]")),
    Case("device typo in a budget", OPTIMUM.replace("--table {d}/table.csv", TWO) + " --budget latency@fats<=5ms", ("latency@fats", "did you mean 'fast'")),
    Case("device without a table", SEARCH + " --budget latency@fast<=5ms", ("latency@fast", "--table fast=T.csv")),
    Case("device in %", OPTIMUM + " --budget latency@fast<=50%", ("latency@fast", "--table fast=T.csv")),
    Case("tables without names", COST + " --table {d}/table.csv", ("--table {d}/table.csv", "names of their devices")),
    Case("a device twice", COST.replace("--table {d}/table.csv", "--table a={d}/table.csv --table a={d}/table.csv"), ("--table a=", "'a' has a table already")),
    Case("a name without a table", COST.replace("--table {d}/table.csv", "--table a="), ("--table a=", "a=T.csv")),
    Case("the table of a device not there", COST.replace("--table {d}/table.csv", "--table a={d}/none.csv"), ("none.csv", "no such lookup table")),
    Case("infeasible on a device", OPTIMUM.replace("--table {d}/table.csv", TWO) + " --budget latency@slow<=1us --fix a=x", ("latency@slow<=0.001ms", "with fix a=x", "the cheapest", "raise latency@slow")),
    Case("fixed slot typo", SEARCH + BUDGET + " --fix aa=x", ("fix 'aa=x'", "did you mean 'a'")),
    Case("fixed choice typo", SEARCH + BUDGET + " --fix a=xx", ("fix 'a=xx'", "did you mean 'x'")),
    Case("fixed without a choice", SEARCH + BUDGET + " --fix a", ("fix", "'a'", "write it like")),
    Case("excluded slot typo", OPTIMUM + " --exclude c*:x", ("exclude 'c*:x'", "no slot 'c*'", "known: a, b")),
    Case("constraint malformed", OPTIMUM + " --constraint 'count(x)<2'", ("count(x)<2", "write it like count(")),
    Case("constraint on no kind", OPTIMUM + " --constraint 'count(Conv)<=2'", ("count(Conv)<=2", "known: none, x, y")),
    Case("constraints that contradict", SEARCH + BUDGET + " --fix a=x --constraint 'count(x)<=0'", ("fix a=x", "without 'count(x)<=0'", "relax")),
    Case("objective typo", OPTIMUM + " --objective slac", ("--objective", "slac", "slack")),
    Case("give without slack", OPTIMUM + " --give 1", ("--give 1", "--objective slack")),
    Case("distance of one", OPTIMUM + " --distance 2", ("--distance 2", "--k")),
    Case("distance beyond the slots", OPTIMUM + " --k 2 --distance 3", ("distance", "1 to 2", "not 3")),
    Case("scores of another kind", OPTIMUM.replace("{d}/scores.json", "'python score.py {arch}'"), ("--scores", "score table")),
    Case("sweep over nothing", SWEEP + " --over latencyy", ("latencyy", "did you mean 'latency'")),
    Case("sweep over no device", SWEEP + " --over latency@fast", ("latency@fast", "unknown device 'fast'")),
    Case("sweep without units", SWEEP + " --bounds 1,2", ("latency", "no unit", "ms")),
    Case("sweep below all", SWEEP + " --fix a=x --bounds 1us", ("latency<=0.001ms", "raise the bounds")),
    Case("plot of no kind", SWEEP + " --plot {d}/front.gif", ("front.gif", ".png")),
    Case("sampler typo", SEARCH + BUDGET + " --sampler budgett", ("budgett", "did you mean 'budget'")),
    Case("evaluator neither", SEARCH.replace("{d}/scores.json", "supernet") + BUDGET, ("supernet", ".json", "{arch}")),
    Case("score table torn", SEARCH + BUDGET, ("scores.json:", "score table file is not valid JSON"), torn("scores.json")),
    Case("score table wrong", SEARCH + BUDGET, ("scores.json", "scores.a.x", "expected a number"), write("scores.json", '{"scores": {"a": {"x": []}}}')),
    Case("score of a slot that is not there", SEARCH + BUDGET, ("scores.json", "aa", "did you mean 'a'"), write("scores.json", '{"scores": {"aa": {"x": 1}}}')),
    Case("evaluator not there", SEARCH.replace("{d}/scores.json", "'no-such-program {arch}'") + BUDGET, ("no-such-program", "cannot be run")),
    Case("evaluator fails", SEARCH.replace("{d}/scores.json", "'false {arch}'") + BUDGET, ("false", "exit status 1")),
    Case("journal is a folder", SEARCH + BUDGET, ("best.json.journal", "is a folder"), folder("best.json.journal")),
    Case("journal is no journal", SEARCH + BUDGET, ("best.json.journal", "not a study's journal", "--storage"), write("best.json.journal", "hello\nworld\n")),
    Case("journal broken inside", SEARCH + BUDGET, ("best.json.journal:1", "broken line", "--storage"), all_of(searched, lambda d: (d / "best.json.journal").write_text((d / "best.json.journal").read_text().replace("{", "<", 3)))),
    Case("journal of another evaluator", SEARCH.replace("scores.json", "other.csv") + BUDGET, ("best.json.journal", "evaluator", "another --storage"), all_of(searched, write("other.csv", "slot,choice,score\n"))),
    Case("database below a file", SEARCH + BUDGET + " --storage sqlite:///{d}/table.csv/x.db", ("{d}/table.csv/x.db", "a file", "another path")),
    Case("database of no kind", SEARCH + BUDGET + " --storage postgre://x", ("postgre://x", "--storage")),
    Case("out below a file", SEARCH.replace("best.json", "table.csv/best.json") + BUDGET, ("table.csv", "a file", "another path")),
    # -- profiling
    Case("runtime typo", PROFILE + " --runtime eagr", ("eagr", "did you mean 'eager'")),
    Case("device typo", PROFILE + " --runtime eager --device iphone", ("iphone", "local")),
    Case("profile of a cost-only space", PROFILE.replace("model.yaml", "space.yaml"), ("two", "cost-only")),
    Case("profile below a file", PROFILE.replace("new.csv", "space.yaml/new.csv"), ("space.yaml", "a file", "another path")),
    Case("profile into a folder", PROFILE, ("new.csv", "is a folder"), folder("new.csv")),
    Case("calibrate without a table", "nas calibrate --space demo --table {d}/none.csv", ("none.csv", "no such lookup table")),
    Case("transfer from no table", TRANSFER.replace("table.csv", "none.csv"), ("none.csv", "no such lookup table")),
    Case("transfer from a table of another space", TRANSFER, ("table.csv", "0 of the", "'small'", "profiled for this space")),
    Case("transfer of a cost-only space", TRANSFER.replace("model.yaml", "space.yaml"), ("two", "cost-only")),
    Case("transfer by two rows", TRANSFER + " --measure 2", ("--measure", "3 or more")),
    Case("transfer by no rows", TRANSFER + " --measure 0", ("--measure", "at least 1")),
    Case("transfer to an estimate", TRANSFER + " --runtime roofline", ("roofline", "nas profile")),
    Case("transfer into its source", TRANSFER.replace("new.csv", "table.csv"), ("table.csv", "another --out")),
    Case("transfer without a source", TRANSFER.replace("--from {d}/table.csv", ""), ("--from", "nas transfer --help")),
    # -- tables and bundles
    Case("table action typo", "nas table shw {d}/table.csv", ("shw", "did you mean 'show'")),
    Case("table of nothing", "nas table show {d}/tabel.csv", ("tabel.csv", "did you mean 'table.csv'")),
    Case("difference to no table", "nas table diff {d}/table.csv {d}/none.csv", ("none.csv", "no such lookup table")),
    Case("merge without out", "nas table merge {d}/table.csv {d}/table.csv", ("--out", "--help")),
    Case("check against no space", "nas table check {d}/table.csv --space demoo", ("demoo", "did you mean 'demo'")),
    Case("pack runtime typo", "nas bundle create --space {d}/model.yaml --runtime litrt --out {d}/bundle", ("litrt", "litert")),
    Case("pack for a runtime that runs here", "nas bundle create --space {d}/model.yaml --runtime eager --out {d}/bundle", ("eager", "litert")),
    Case("pack a cost-only space", "nas bundle create --space {d}/space.yaml --runtime coreml --out {d}/bundle", ("two", "cost-only")),
    Case("pack into a folder of other things", "nas bundle create --space {d}/model.yaml --runtime coreml --out {d}", ("{d}", "is not empty", "new folder")),
    Case("measure no bundle", "nas bundle measure {d}/nothing", ("nothing", "nas bundle create")),
    Case("measure a folder that is none", "nas bundle measure {d}", ("bundle", "nas bundle create")),
    Case("collect no bundle", "nas bundle collect {d}/nothing --out {d}/new.csv", ("nothing", "nas bundle create")),
    # -- data and pruning
    Case("prepare no data", "nas prepare --data {d}/clips --space {d}/model.yaml --decoder {d}/checkpoint --out {d}/cache", ("clips", "folder")),
    Case("prepare without metadata", "nas prepare --data {d} --space {d}/model.yaml --decoder {d}/checkpoint --out {d}/cache", ("metadata.csv", "file_name")),
    Case("prepare without a decoder", "nas prepare --data {d}/data --space demo --decoder {d}/run --out {d}/cache", ("run", "decoder"), lambda d: ((d / "data").mkdir(), (d / "data/metadata.csv").write_text("file_name,text\na.mp4,a\n"))),
    Case("prune no checkpoint", "nas prune --checkpoint {d}/nothing --space demo --out {d}/pruned", ("nothing",)),
    Case("importance typo", "nas prune --checkpoint {d} --space demo --out {d}/pruned --importance nrom", ("nrom", "did you mean 'norm'")),
    Case("shell of no kind", "nas completion tcsh", ("tcsh", "bash")),
    # -- jobs and reports
    Case("no job", "nas run {d}/jbo.yaml", ("jbo.yaml", "did you mean 'job.yaml'")),
    Case("job key typo", "nas run {d}/job.yaml --out {d}/run", ("job.yaml:3", "budgte", "did you mean 'budget'"), replace("job.yaml", "budget:", "budgte:")),
    Case("job stage typo", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "finetun", "did you mean 'finetune'"), lambda d: (d / "job.yaml").write_text(JOB + "stages: {finetun: {}}\n")),
    Case("job wrong type", "nas run {d}/job.yaml --out {d}/run", ("job.yaml:5", "seed", "expected int"), lambda d: (d / "job.yaml").write_text(JOB + "seed: soon\n")),
    Case("job execution typo", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "execution.precison", "did you mean 'precision'"), lambda d: (d / "job.yaml").write_text(JOB + "execution: {precison: bf16}\n")),
    Case("job of an unknown device", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "latency@pixel", "unknown device 'pixel'", "tables: {pixel: T.csv}"), replace("job.yaml", "latency<=80%", "latency@pixel<=80ms")),
    Case("job device table missing", "nas run {d}/job.yaml --out {d}/run", ("pixel.csv", "no such lookup table"), lambda d: (d / "job.yaml").write_text(JOB + "tables: {pixel: pixel.csv}\n")),
    Case("job device named as its own", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "tables.local", "remove it"), lambda d: (d / "job.yaml").write_text(JOB + "tables: {local: table.csv}\n")),
    Case("job constraint typo", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "search.constraints", "mid.9", "did you mean"), lambda d: (d / "job.yaml").write_text(JOB + "search: {constraints: {fix: [mid.9/0=none]}}\n")),
    Case("job on no device", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "execution.device", "unknown device 'gpu'"), lambda d: (d / "job.yaml").write_text(JOB + "execution: {device: gpu}\n")),
    Case("job batch of no worker", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "stages.decoder.batch: 8 cannot be shared evenly by 3"), lambda d: (d / "job.yaml").write_text(JOB + "workers: 3\n")),
    Case("job format typo", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "formats", "did you mean 'coreml'"), lambda d: (d / "job.yaml").write_text(JOB + "formats: [coreeml]\n")),
    Case("job preview of no stage", "nas run {d}/job.yaml --out {d}/run", ("job.yaml", "previews.steps", "did you mean 'adversarial'"), replace("job.yaml", "adversarial", "adversary")),
    Case("job record torn", "nas run {d}/job.yaml --out {d}/run", ("record.json", "run record file is not valid JSON"), lambda d: ((d / "run").mkdir(), (d / "run" / "record.json").write_text('{"na'))),
    Case("no run to report", "nas report {d}/nothing", ("nothing", "no such run folder", "nas run")),
    Case("report of a file", "nas report {d}/job.yaml", ("job.yaml", "run folder")),
    Case("dashboard without its library", "nas dashboard {d}", ("optuna-dashboard", "pip install 'nas-video[dashboard]'"), missing=("optuna_dashboard",)),
    Case("dashboard of no run", "nas dashboard {d}/nothing", ("nothing", "no such run folder", "nas run")),
    Case("dashboard before the search", "nas dashboard {d}", ("study.journal", "no such file yet", "search")),
    # -- training
    Case("stage typo", TRAIN.replace("{stage}", "finetun"), ("finetun", "did you mean 'finetune'")),
    Case("train on no device", TRAIN.replace("{stage}", "decoder") + " --device gpu", ("--device", "unknown device 'gpu'")),
    Case("stage before is missing", TRAIN.replace("{stage}", "finetune"), ("decoder", "finished", "run that stage first")),
    Case("recipe key typo", TRAIN.replace("{stage}", "decoder"), ("recipe.yaml:4", "stages.decoder.stepz", "did you mean 'steps'"), replace("recipe.yaml", "steps", "stepz")),
    Case("recipe wrong type", TRAIN.replace("{stage}", "decoder"), ("recipe.yaml:4", "steps", "expected int"), replace("recipe.yaml", "steps: 5", "steps: many")),
    Case("recipe stage typo", TRAIN.replace("{stage}", "distill"), ("recipe.yaml", "decodr", "did you mean 'decoder'"), replace("recipe.yaml", "decoder:", "decodr:")),
    Case("recipe without architecture", TRAIN.replace("{stage}", "finetune"), ("recipe.yaml", "architecture"), replace("recipe.yaml", "architecture: model.json\n", "")),
    Case("result torn", TRAIN.replace("{stage}", "decoder"), ("result.json", "stage result"), all_of(lambda d: (d / "run/decoder").mkdir(parents=True), write("run/decoder/result.json", '{"metr'))),
    Case("stage folder of another stage", TRAIN.replace("{stage}", "decoder"), ("stage.json", "another", "another folder"), all_of(lambda d: (d / "run/decoder").mkdir(parents=True), write("run/decoder/stage.json", '{"stage": "distill", "space_hash": "", "architecture": null, "config": {}}'))),
    Case("data is no folder", TRAIN.replace("{stage}", "decoder"), ("no-data", "digits", "folder"), replace("recipe.yaml", "{steps: 5", "{data: no-data, steps: 5")),
    Case("data without metadata", TRAIN.replace("{stage}", "decoder"), ("metadata.csv", "file_name"), lambda d: (d / "recipe.yaml").write_text(RECIPE.replace("{steps", f"{{data: {d}, steps"))),
    Case("digits without scikit-learn", TRAIN.replace("{stage}", "decoder"), ("scikit-learn", "pip install 'nas-video[demo]'"), missing=("sklearn", "sklearn.datasets")),
    # -- generating
    Case("no checkpoint", GENERATE.replace("{d}/checkpoint", "{d}/none"), ("none", "no such checkpoint")),
    Case("checkpoint is a stage without one", GENERATE, ("checkpoint.json", "finetune"), gone("checkpoint/checkpoint.json")),
    Case("checkpoint is the run's folder", GENERATE, ("contains no checkpoint.json", "did you mean 'D/checkpoint/adversarial'"), all_of(lambda d: (d / "checkpoint").rename(d / "stage"), lambda d: (d / "checkpoint").mkdir(), lambda d: (d / "stage").rename(d / "checkpoint/adversarial"))),
    Case("checkpoint info torn", GENERATE, ("checkpoint.json", "checkpoint file is not valid JSON"), torn("checkpoint/checkpoint.json")),
    Case("weights torn", GENERATE, ("denoiser.safetensors", "weights"), torn("checkpoint/denoiser.safetensors")),
    Case("weights of another model", GENERATE, ("denoiser.safetensors", "does not fit"), lambda d: shutil.copy(d / "checkpoint/decoder.safetensors", d / "checkpoint/denoiser.safetensors")),
    Case("generate on no device", GENERATE + " --device gpu", ("device", "unknown device 'gpu'")),
    Case("evaluate no checkpoint", "nas evaluate --checkpoint {d}/none --data {d}/run", ("none", "no such checkpoint")),
    Case("prompt missing", GENERATE.replace("--prompt 'a cat runs'", ""), ("--prompt", "--help")),
    Case("steps zero", GENERATE + " --steps 0", ("steps", "at least 1")),
    Case("frames zero", GENERATE + " --frames 0", ("frames", "at least 1")),
    Case("height that no clip has", GENERATE + " --height 18", ("height", "multiple of 4", "try 16")),
    Case("guidance no number", GENERATE + " --guidance strong", ("--guidance", "strong")),
    Case("suffix unknown", GENERATE.replace("clip.gif", "clip.mp5"), (".mp5", "did you mean '.mp4'")),
    Case("suffix of no clip", GENERATE.replace("clip.gif", "clip.webp"), (".webp", "without a suffix: a folder of PNG", "known: .mp4, .gif")),
    Case("clip below a file", GENERATE.replace("clip.gif", "space.yaml/clip.gif"), ("space.yaml", "cannot be written")),
    Case("text encoder missing", GENERATE, ("transformers", "pip install 'nas-video[demo]'"), missing=("transformers",)),
    # -- exporting
    Case("format typo", EXPORT.replace("{format}", "coreeml"), ("--format", "coreeml", "did you mean 'coreml'")),
    Case("target typo", EXPORT.replace("{format}", "coreml") + " --target iOS15", ("target", "iOS15", "did you mean 'iOS18'")),
    Case("bits for a recipe", EXPORT.replace("{format}", "recipe") + " --bits 8", ("--bits", "coreml")),
    Case("comparing without a Mac", EXPORT.replace("{format}", "coreml") + " --compare", ("--compare", "a Mac")),
    Case("bits impossible", EXPORT.replace("{format}", "coreml") + " --bits 3", ("--bits", "3")),
    Case("export of no checkpoint", EXPORT.replace("{format}", "recipe").replace("{d}/checkpoint", "{d}"), ("checkpoint.json", "finished finetune")),
    Case("export below a file", EXPORT.replace("{format}", "recipe").replace("/export", "/space.yaml/export"), ("space.yaml", "a file", "another path")),
    Case("export with a table of another space", EXPORT.replace("{format}", "recipe") + " --table {d}/table.csv", ("table.csv", "no row for")),
    Case("litert without its converter", EXPORT.replace("{format}", "litert"), ("litert-torch", "pip install 'nas-video[litert]'"), missing=("litert_torch",)),
    Case("manifest torn", EXPORT.replace("{format}", "recipe"), ("export.json", "export manifest file is not valid JSON"), all_of(lambda d: (d / "export").mkdir(), write("export/export.json", '{"rec'))),
]  # fmt: skip


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """One of each file that the calls name, all of them good."""
    d = tmp_path_factory.mktemp("files")
    (d / "space.yaml").write_text(SPACE)
    (d / "model.yaml").write_text(MODEL)
    (d / "recipe.yaml").write_text(RECIPE)
    (d / "job.yaml").write_text(JOB)
    space = SearchSpace.load(d / "space.yaml")
    rows = [
        {
            "workload": key,
            "latency_ms": 1.0 + i,
            "memory_mb": 2.5,
            "weights_mb": 0.5,
            "params": 10,
            "source": "measured",
        }
        for i, key in enumerate(space.workloads())
    ]
    LookupTable.from_frame(pd.DataFrame(rows), {"runtime": "eager", "device": "local"}).save(d / "table.csv")
    space.architecture({"a": "x"}).save(d / "arch.json")
    (d / "empty.json").write_text('{"choices": {}}')
    model = SearchSpace.load(d / "model.yaml")
    model.architecture({"mid.0/0": "Conv1D"}).save(d / "model.json")
    frame = pd.DataFrame({"workload": [str(workload) for workload in model.workloads()], "source": "measured"})
    frame = frame.assign(latency_ms=1.0, memory_mb=2.5, weights_mb=0.5, params=10)
    LookupTable.from_frame(frame, {"runtime": "litert", "device": "local"}).save(d / "model.csv")
    (d / "scores.json").write_text(json.dumps({"scores": {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 0.5}}}))
    return d


@pytest.fixture
def folder_of(files, tmp_path, request):
    """A copy of the files to break; with a checkpoint where the call names one."""

    def copy(call: str) -> Path:
        d = Path(shutil.copytree(files, tmp_path / "files"))
        if "{d}/checkpoint" in call:
            shutil.copytree(request.getfixturevalue("tiny_checkpoint"), d / "checkpoint")
        return d

    return copy


def words(call: str, d: Path) -> list[str]:
    return [word.replace("{d}", str(d)) for word in shlex.split(call)][1:]


def call(text: str, d: Path) -> int:
    return main(words(text, d))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_names_the_thing_and_the_fix(case, folder_of, capfd, monkeypatch):
    d = folder_of(case.call)
    case.broken(d)
    for name in case.missing:
        for loaded in [name, *(m for m in sys.modules if m.startswith(f"{name}."))]:
            monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # what is tried again need not wait here
    capfd.readouterr()
    status = call(case.call, d)
    lines = capfd.readouterr().err.replace(str(d), "D").strip().splitlines()
    lines = [line for line in lines if " trials, " not in line]  # the search's progress
    assert status == 2, lines
    assert len(lines) == 1 and lines[0].startswith("nas"), lines
    assert [word for word in case.says if word.replace("{d}", "D") not in lines[0]] == [], lines[0]
    assert len(lines[0]) < 500, lines[0]


def test_the_calls_are_right_when_nothing_is_broken(files, tmp_path):
    """Otherwise a case could fail for another reason than its own."""
    d = Path(shutil.copytree(files, tmp_path / "files"))
    assert call(COST, d) == 0 and call(SEARCH + BUDGET, d) == 0


@pytest.mark.parametrize("name", ["no command", "architecture torn", "journal broken inside", "runtime typo", "no job"])
def test_as_a_program(name, folder_of):
    case = next(case for case in CASES if case.name == name)
    d = folder_of(case.call)
    case.broken(d)
    command = [sys.executable, "-m", "nas.cli", *words(case.call, d)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in case.says)


@dataclass(frozen=True)
class Writing:
    """A call that writes to `out`, where another process is writing.

    Attributes:
        folder: `out` is a folder.
    """

    call: str
    out: str
    folder: bool = False


WRITING = {
    "profile": Writing(PROFILE, "new.csv"),
    "search": Writing(SEARCH + BUDGET, "best.json"),
    "optimum": Writing(OPTIMUM, "best.json"),
    "sweep": Writing(SWEEP, "front.csv"),
    "search's study": Writing(SEARCH + BUDGET, "best.json.journal"),
    "train": Writing(TRAIN.replace("{stage}", "decoder"), "run/decoder", folder=True),
    "train with workers": Writing(TRAIN.replace("{stage}", "decoder") + " --workers 2", "run/decoder", folder=True),
    "evaluate": Writing("nas evaluate --checkpoint {d}/checkpoint --data {d}", "checkpoint/evaluation/standard.json"),
    "generate": Writing(GENERATE, "clip.gif"),
    "generate frames": Writing(GENERATE.replace("clip.gif", "clip"), "clip", folder=True),
    "export a recipe": Writing(EXPORT.replace("{format}", "recipe"), "export", folder=True),
    "export for Core ML": Writing(EXPORT.replace("{format}", "coreml"), "export", folder=True),
    "export for LiteRT": Writing(EXPORT.replace("{format}", "litert"), "export", folder=True),
    "run": Writing("nas run {d}/job.yaml --out {d}/run", "run", folder=True),
    "prune": Writing("nas prune --checkpoint {d}/none --space demo --out {d}/pruned", "pruned", folder=True),
    "prepare": Writing(
        "nas prepare --data {d} --space demo --decoder {d}/checkpoint --out {d}/cache", "cache", folder=True
    ),
    "bundle create": Writing(
        "nas bundle create --space {d}/model.yaml --runtime coreml --out {d}/bundle", "bundle", folder=True
    ),
    "transfer": Writing(TRANSFER.replace("table.csv", "model.csv"), "new.csv"),
    "calibrate": Writing("nas calibrate --space {d}/model.yaml --table {d}/table.csv", "table.csv"),
    "merge": Writing("nas table merge {d}/table.csv --out {d}/new.csv", "new.csv"),
}


@pytest.mark.parametrize("name", WRITING)
def test_two_processes_on_one_output(name, folder_of, capfd, monkeypatch):
    writing = WRITING[name]
    d = folder_of(writing.call)
    path = d / writing.out
    (path if writing.folder else path.parent).mkdir(parents=True, exist_ok=True)
    before = sorted(d.rglob("*"))
    monkeypatch.setattr("nas.locks.EXIT_WAIT_S", 0.0)
    with open(path / ".nas.lock" if writing.folder else path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a lock of another opening of the file is another's, even in one process
        json.dump({"pid": 12, "host": "elsewhere", "command": "nas", "since": "now"}, lock)
        lock.flush()
        capfd.readouterr()
        status = call(writing.call, d)
    line = capfd.readouterr().err.replace(str(d), "D")
    assert status == 2 and line.count("\n") == 1, line
    assert f"D/{writing.out}: " in line and "process 12 on elsewhere" in line, line
    assert [path for path in sorted(d.rglob("*")) if not path.name.endswith(".lock")] == before


def test_every_command_that_writes_is_among_them():
    calls = [writing.call.removeprefix("nas ") for writing in WRITING.values()]
    writes = {name for name, command in commands() if any(option.name == "out" for option in command.params)}
    missing = {name for name in writes | {"calibrate"} if not any(call.startswith(name) for call in calls)}
    assert missing <= {"bundle collect"}  # which writes a table as 'nas table merge' does


FULL = {
    "merge": ("nas table merge {d}/table.csv --out {d}/new.csv", "new.csv"),
    "generate": (GENERATE, "clip.gif"),
    "export": (EXPORT.replace("{format}", "recipe"), "export"),
    "run": ("nas run {d}/job.yaml --out {d}/run", "run/config.yaml"),
}


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_leaves_nothing_half_written(name, folder_of, capfd, monkeypatch):
    text, out = FULL[name]
    d = folder_of(text)
    before = sorted(d.rglob("*"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    capfd.readouterr()
    status = call(text, d)
    line = capfd.readouterr().err.replace(str(d), "D")
    assert status == 2 and line.count("\n") == 1, line
    assert f"D/{out}" in line and "No space left" in line, line
    assert [path for path in sorted(d.rglob("*")) if path.is_file() and path not in before] == []
