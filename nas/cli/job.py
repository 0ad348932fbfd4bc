"""The whole job in one command, and its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from nas.cli.command import command


def _declare_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="what to do, as YAML (configs/demo.yaml is an example)")
    parser.add_argument("--out", metavar="DIR", help="the run folder; default: runs/NAME")


@command("run", "the whole job: profile, search, train, export, report", "nas run configs/demo.yaml", _declare_run)
def run(args: argparse.Namespace) -> None:
    from nas.report import write
    from nas.report.summary import summary
    from nas.runs.job import run_job

    folder = run_job(args.config, args.out)
    write(folder)
    print(summary(folder))


@command(
    "report",
    "one self-contained HTML page of a run",
    "nas report runs/demo",
    lambda parser: parser.add_argument("run", help="a run folder"),
)
def report(args: argparse.Namespace) -> None:
    from nas.report import write

    print(write(Path(args.run)))


def _declare_dashboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="where it listens (default: 8080)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


@command("dashboard", "a run's search, live in the browser", "nas dashboard runs/demo", _declare_dashboard)
def dashboard(args: argparse.Namespace) -> None:
    from nas.report.dashboard import serve

    serve(args.run, args.port, browser=not args.no_browser)
