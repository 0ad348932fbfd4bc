"""A bundle: a folder with every workload of a space compiled, to be measured on a phone that is not attached here.

manifest.json     what is in it: workloads, versions, the hash of every file, and of itself (`bundle`)
packages/         the workloads as .tflite files or .mlpackage folders
measure.sh        litert: measures on any machine with adb, without this library
plan.txt, files.sha256, benchmark_model    what measure.sh reads; the tool, if it was there when packing
measure.py        coreml: measures on a Mac with nothing but coremltools
results.jsonl     what `nas measure` or measure.py found, a line at a time
results/          what measure.sh found, a file for each visit
"""

from __future__ import annotations

import contextlib
import datetime
import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nas
from nas.errors import ConfigError, NasError, SpaceError
from nas.failures import Infeasible, ToolError
from nas.files import write_atomic, write_json
from nas.locks import output_lock
from nas.profiling.bundles.bundle import MANIFEST, Bundle, identity
from nas.profiling.bundles.render import render_script
from nas.profiling.compile import CompiledWorkload, Compiler
from nas.profiling.digests import file_hash
from nas.profiling.host import commit
from nas.profiling.profile import Progress
from nas.profiling.runtimes.android import TOOL, find_tool
from nas.profiling.runtimes.base import Runtime
from nas.spaces import SearchSpace, Workload

LOCK = ".nas.lock"
"""What `output_lock` puts into a folder."""
ROUNDS = 8
"""How often measure.sh visits each workload."""

CONVERTERS = {"coreml": ("torch", "coremltools"), "litert": ("torch", "litert-torch")}


def create(
    space: SearchSpace,
    runtime: str,
    out: str | Path,
    target: str = "iOS17",
    tool: str | Path | None = None,
    pipeline: bool = False,
    progress: bool = True,
) -> Bundle:
    """Compile every workload of a space into a folder that can be measured elsewhere.

    Args:
        space: with a backbone.
        runtime: `coreml` or `litert`.
        out: the folder.
        target: of Core ML, see `nas.conversion.convert.COREML_TARGETS`.
        tool: LiteRT's `benchmark_model` for the phone, to go along; see `nas.profiling.runtimes.android.find_tool`.
        pipeline: the text encoder and the decoder too.

    Raises:
        ConfigError: an unknown runtime or target, or `out` is in use.
        NasError: the converter is not installed, or failed for a reason that is not a workload's; or the disk is full.
            Nothing is left in `out` then.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise ConfigError(f"{out}: is a bundle already; measure or collect it, or give another --out")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; give --out a new folder")
    workloads = [w for w in space.workloads() + pipeline * space.pipeline_workloads() if isinstance(w, Workload)]
    if not workloads:
        raise SpaceError(f"search space '{space.name}' is cost-only: there is nothing to compile")
    tool = find_tool(tool) if runtime == "litert" else None
    with output_lock(out, folder=True), _half_packed(out):
        with (
            Compiler(runtime, target if runtime == "coreml" else "") as compiler,
            closing(Progress(len(workloads), 0, progress, f"pack {space.name}")) as bar,
        ):
            packages, reference, infeasible = _compile(compiler, workloads, out, bar)
        files = _write_runner(out, runtime, packages, reference, tool)
        manifest = {
            "space": space.name,
            "space_hash": space.hash,
            "dtype": space.dtype,
            "runtime": runtime,
            "target": target if runtime == "coreml" else "",
            "versions": {"nas": nas.__version__, **{name: _version(name) for name in CONVERTERS[runtime]}},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "packages": packages,
            "reference": reference,
            "infeasible": infeasible,
            "files": {name: file_hash(out / name) for name in files},
        }
        manifest["bundle"] = identity(manifest)
        if runtime == "litert":
            sums = "".join(f"{digest}  {name}\n" for name, digest in manifest["files"].items())
            write_atomic(out / "files.sha256", f"# {manifest['bundle']}\n{sums}")
        write_json(out / MANIFEST, manifest)
    return Bundle.load(out)


def _compile(
    compiler: Compiler, workloads: list[Workload], out: Path, bar: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, str]]:
    """Entries for the manifest: the packages, the reference, and the reasons of what cannot be compiled.

    Raises:
        NasError: a tool failed, be it on the reference workload, which every runtime can run.
    """
    packages, infeasible = [], {}
    try:
        reference = _put(compiler.package(Runtime.reference, alone=True), out, "reference")
    except Infeasible as error:
        raise NasError(f"not even the reference workload can be compiled: {error}") from None
    for number, workload in enumerate(workloads):
        try:
            packages.append(_put(compiler.package(workload), out, f"{number:04d}"))
        except Infeasible as error:
            infeasible[str(workload)] = str(error)
        except ToolError as error:
            raise ToolError(f"{workload}: cannot be compiled here: {error}") from None
        bar.bar.update()
    return packages, reference, infeasible


@contextlib.contextmanager
def _half_packed(out: Path) -> Iterator[None]:
    """Nothing is left of a bundle that was not finished, be it the one of a process that was killed.

    Raises:
        ConfigError: the folder holds something else.
    """
    marker = out / ".packing"
    if marker.exists():
        _empty(out)
    if [path for path in out.iterdir() if path.name != LOCK]:
        raise ConfigError(f"{out}: holds something else; give --out a new folder")
    marker.touch()
    try:
        yield
    except BaseException:
        _empty(out)
        raise
    marker.unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


def _put(package: CompiledWorkload, out: Path, name: str) -> dict[str, Any]:
    """Copy a package's files into the bundle; its entry for the manifest, with paths inside the folder."""
    entry = {f.name: getattr(package, f.name) for f in fields(CompiledWorkload) if f.name != "target"}
    for key, suffix in (("path", ""), ("several", "-several")):
        if entry[key]:
            there = out / "packages" / f"{name}{suffix}{entry[key].suffix}"
            there.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if entry[key].is_dir() else shutil.copyfile)(entry[key], there)
            entry[key] = there.relative_to(out).as_posix()
    return entry


def _write_runner(
    out: Path, runtime: str, packages: list[dict[str, Any]], reference: dict[str, Any], tool: Path | None
) -> list[str]:
    """Put in what measures it without this library.

    Returns:
        every file that the bundle must keep as it is.
    """
    here = Path(__file__).parent
    if runtime == "coreml":
        write_atomic(out / "measure.py", render_script("nas.profiling.bundles.script"))
        return [*sorted(_files(out, ["packages"])), "measure.py"]
    names = ["measure.sh", "plan.txt"]
    shutil.copyfile(here / "measure.sh", out / "measure.sh")
    write_atomic(out / "plan.txt", "".join(_plan(packages, reference)))
    if tool is not None:
        shutil.copyfile(tool, out / TOOL)
        (out / TOOL).chmod(0o755)
        names.append(TOOL)
    return [*sorted(_files(out, ["packages"])), *names]


def _plan(packages: list[dict[str, Any]], reference: dict[str, Any]) -> Iterator[str]:
    """`round number one several reference` for every visit, in another order each round."""
    for round_ in range(ROUNDS):
        order = list(range(len(packages)))
        random.Random(round_).shuffle(order)
        for number in order:
            one, several = packages[number]["path"], packages[number]["several"] or "-"
            yield f"{round_} {number} {one} {several} {reference['path']}\n"


def _files(out: Path, tops: list[str]) -> Iterator[str]:
    for top in tops:
        for path in (out / top).rglob("*"):
            if path.is_file():
                yield path.relative_to(out).as_posix()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
