"""Create a bundle: a folder with all workloads of a space compiled, to be measured where the phone is.

manifest.json     workloads, versions, the hash of every file, and its own hash (`bundle`)
packages/         the workloads as .tflite files or .mlpackage folders
measure.sh        litert: measures on any machine with adb, without this library
plan.txt, files.sha256, benchmark_model    read by measure.sh; the tool, if it was available
measure.py        coreml: measures on a Mac that has only coremltools
index.html, *.js, style.css, library/    web: a page that measures, on any static host
results.jsonl     results of `nas bundle measure` or measure.py, a line each
results/          results of measure.sh, a file for each visit
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
from nas import web_libraries
from nas.errors import ConfigError, NasError, SpaceError
from nas.failures import Infeasible, ToolError
from nas.files import write_atomic, write_json
from nas.locks import output_lock
from nas.profiling.bundles.bundle import MANIFEST, Bundle, identity
from nas.profiling.bundles.render import render_script
from nas.profiling.compile import CompiledWorkload, Compiler
from nas.profiling.digests import file_hash
from nas.profiling.host import commit
from nas.profiling.measuring import Progress
from nas.profiling.runtimes.android import TOOL, find_benchmark_tool
from nas.profiling.runtimes.base import Runtime
from nas.profiling.web.bundle_page import write_page
from nas.spaces import SearchSpace, Workload

LOCK = ".nas.lock"
"""The lock file that `output_lock` creates in a folder."""
ROUNDS = 8
"""Number of visits of measure.sh to each workload."""

CONVERTERS = {
    "coreml": ("torch", "coremltools"),
    "litert": ("torch", "litert-torch"),
    "web": ("torch", "litert-torch"),
}


def create(
    space: SearchSpace,
    runtime: str,
    out: str | Path,
    target: str = "iOS17",
    tool: str | Path | None = None,
    pipeline: bool = False,
    progress: bool = True,
) -> Bundle:
    """Compile all workloads of a space into a folder that can be measured on another machine.

    Args:
        space: with a backbone.
        runtime: `coreml`, `litert` or `web`.
        out: the folder; it must not exist or be empty.
        target: for Core ML, see `nas.conversion.convert.COREML_TARGETS`.
        tool: LiteRT's `benchmark_model` for the phone, copied into the bundle; see `nas.profiling.runtimes.android.find_benchmark_tool`.
        pipeline: also compile the text encoder and the decoder.

    Raises:
        ConfigError: an unknown runtime or target, or `out` is in use.
        NasError: the converter, or LiteRT.js for `web`, is not installed, or failed for a reason other than a workload; or the disk is full.
            In this case `out` is left empty.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise ConfigError(f"{out}: is already a bundle; measure or collect it, or give another --out")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; give --out a new folder")
    workloads = [w for w in space.workloads() + pipeline * space.pipeline_workloads() if isinstance(w, Workload)]
    if not workloads:
        raise SpaceError(f"search space '{space.name}' is cost-only and has no workloads to compile")
    tool = find_benchmark_tool(tool) if runtime == "litert" else None
    if runtime == "web":
        web_libraries.folder()  # an error before anything is compiled
    with output_lock(out, folder=True), _empty_unless_finished(out):
        with (
            Compiler(runtime, target if runtime == "coreml" else "") as compiler,
            closing(Progress(len(workloads), 0, progress, f"pack {space.name}")) as bar,
        ):
            packages, reference, infeasible = _compile(compiler, workloads, out, bar)
        files = _write_runner(out, runtime, packages, reference, tool)
        library = {"LiteRT.js": web_libraries.versions()["@litertjs/core"]} if runtime == "web" else {}
        manifest = {
            "space": space.name,
            "space_hash": space.hash,
            "dtype": space.dtype,
            "runtime": runtime,
            "target": target if runtime == "coreml" else "",
            "versions": {"nas": nas.__version__, **{name: _version(name) for name in CONVERTERS[runtime]}, **library},
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
    """Compile the workloads into the bundle.

    Returns:
        the manifest's entries: the packages, the reference, and workload -> reason for those that cannot be compiled.

    Raises:
        NasError: a tool failed, or the reference workload, which every runtime can run, cannot be compiled.
    """
    packages, infeasible = [], {}
    try:
        reference = _put(compiler.package(Runtime.reference, alone=True), out, "reference")
    except Infeasible as error:
        raise NasError(f"the reference workload cannot be compiled: {error}") from None
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
def _empty_unless_finished(out: Path) -> Iterator[None]:
    """Empty the folder if creating the bundle fails; also remove what a killed process left.

    Raises:
        ConfigError: the folder has other content.
    """
    marker = out / ".packing"
    if marker.exists():
        _empty(out)
    if [path for path in out.iterdir() if path.name != LOCK]:
        raise ConfigError(f"{out}: is not empty; give --out a new folder")
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
    """Copy the files of a package into the bundle; its entry for the manifest, with paths relative to the bundle."""
    entry = {f.name: getattr(package, f.name) for f in fields(CompiledWorkload) if f.name != "target"}
    for key, suffix in (("path", ""), ("several", "-several")):
        if entry[key]:
            copied = out / "packages" / f"{name}{suffix}{entry[key].suffix}"
            copied.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if entry[key].is_dir() else shutil.copyfile)(entry[key], copied)
            entry[key] = copied.relative_to(out).as_posix()
    return entry


def _write_runner(
    out: Path, runtime: str, packages: list[dict[str, Any]], reference: dict[str, Any], tool: Path | None
) -> list[str]:
    """Write the script that measures the bundle without this library.

    Returns:
        names of all files that must not change, for the manifest.
    """
    if runtime == "coreml":
        write_atomic(out / "measure.py", render_script("nas.profiling.bundles.script"))
        return [*sorted(_files(out, ["packages"])), "measure.py"]
    if runtime == "web":
        return [*sorted(_files(out, ["packages"])), *write_page(out)]
    names = ["measure.sh", "plan.txt"]
    shutil.copyfile(Path(__file__).with_name("measure.sh"), out / "measure.sh")
    write_atomic(out / "plan.txt", "".join(_plan(packages, reference)))
    if tool is not None:
        shutil.copyfile(tool, out / TOOL)
        (out / TOOL).chmod(0o755)
        names.append(TOOL)
    return [*sorted(_files(out, ["packages"])), *names]


def _plan(packages: list[dict[str, Any]], reference: dict[str, Any]) -> Iterator[str]:
    """Lines `round number one several reference` for all visits, in another order each round."""
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
