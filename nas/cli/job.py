"""Commands that run a whole job, and that show its run folder."""

from __future__ import annotations

from pathlib import Path

import click

from nas.cli.command import PATH, Command, option


@click.command(
    cls=Command,
    resumable=True,
    help="run the whole job: profile, search, train, export, report",
    example="nas run configs/demo.yaml",
)
@click.argument("config", type=PATH)
@option("--out", metavar="DIR", type=PATH, help="the run folder  [default: runs/NAME]")
@option(
    "--device", metavar="D", help="where to train: cpu, cuda, cuda:1 or mps  [default: the config's execution.device]"
)
def run(config: str, out: str | None, device: str | None) -> None:
    from nas.report import write
    from nas.report.summary import summary
    from nas.runs.job import run_job

    folder = run_job(config, out, device)
    write(folder)
    print(summary(folder))


@click.command(cls=Command, help="write a run's report: one self-contained HTML page", example="nas report runs/demo")
@click.argument("run", type=PATH)
def report(run: str) -> None:
    from nas.report import write

    print(write(Path(run)))


@click.command(cls=Command, help="show a run's search live in the browser", example="nas dashboard runs/demo")
@click.argument("run", type=PATH)
@option(
    "--port", type=click.IntRange(0, 65535), default=8080, metavar="N", help="port to listen on; 0 picks a free one"
)
@option("--no-browser", is_flag=True, help="only print the address")
def dashboard(run: str, port: int, no_browser: bool) -> None:
    from nas.report.dashboard import serve

    serve(run, port, browser=not no_browser)
