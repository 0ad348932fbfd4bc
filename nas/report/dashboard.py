"""A run's study in optuna-dashboard, with drawings of the architectures and the preview clips as Optuna artifacts.

Optuna cannot attach artifacts to a finished trial, and the journal of a running search must not be changed. The dashboard
therefore reads a storage that adds artifacts to the journal's contents, and an artifact store that draws a picture on
request. It works while the search is running.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX, ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from nas.errors import ConfigError, MissingDependency, NasError
from nas.report import findings
from nas.runs.device_tables import own_name
from nas.runs.folder import RunFolder, file_in_run
from nas.runs.record import Preview, RunRecord
from nas.search import open_storage

PICTURE, CLIP = "a-", "c-"
"""Prefixes of artifact ids, followed by a hexadecimal number: the dashboard accepts no other characters."""

THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.I)
"""Allowed hosts; any port, since a port may be forwarded."""


def application(run: str | Path) -> Any:
    """The dashboard of a run folder as a WSGI application.

    Raises:
        ConfigError: the run has no study yet.
        MissingDependency: optuna-dashboard is not installed.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise MissingDependency("optuna-dashboard is not installed; run: pip install 'nas-video[dashboard]'") from None
    storage = IllustratedStorage(RunFolder.read(run))
    return local_only(optuna_dashboard.wsgi(storage, artifact_store=Illustrations(storage)))


def local_only(app: Callable) -> Callable:
    """Wrap a WSGI application so that it answers only requests for localhost.

    A foreign web page can resolve its own domain to 127.0.0.1 and read a local server's responses (DNS rebinding), or
    send requests to it. The browser then sends the foreign name in `Host` or `Origin`.
    """

    def guarded(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", "localhost"), environ.get("HTTP_ORIGIN", "")
        if THIS_MACHINE.fullmatch(host) and (not origin or THIS_MACHINE.fullmatch(origin.partition("://")[2])):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"The dashboard answers requests for localhost only.\n"]

    return guarded


class IllustratedStorage(optuna.storages.JournalStorage):
    """A run's journal with drawings of the architectures on its trials, and the preview clips on its study.

    The clips are of the chosen architecture, so they are also on its trial.

    Raises:
        ConfigError: the run has no study yet.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, journal = run, run.path / "study.journal"
        if not journal.exists():
            raise ConfigError(f"{journal}: no such file yet; the run has not reached its search")
        super().__init__(open_storage(journal)._backend)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._with_artifacts(super().get_trial(trial_id))

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=True, states=states)
        return [self._with_artifacts(trial) for trial in trials]

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        for study in studies:
            study.system_attrs = self._with_attributes(study.system_attrs, study._study_id)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._with_attributes(super().get_study_system_attrs(study_id), study_id)

    def _with_attributes(self, attributes: dict[str, Any], study_id: int) -> dict[str, Any]:
        """A study's attributes with its preview clips, the name of its objective, and a note on each trial's costs."""
        added = {"study:metric_names": ["score"], **_note(None, STUDY_NOTE)}
        for trial in super().get_all_trials(study_id, deepcopy=False):
            added |= _note(trial._trial_id, self._costs(trial.user_attrs))
        return added | attributes | self._clips()

    def _costs(self, attributes: dict[str, Any]) -> str:
        """The predicted costs of a trial's architecture as a Markdown list, with the budget if it is known."""
        lines, budget = [], self.run.record.budget
        for name, quantity in findings.QUANTITIES.items():
            phrase, unit = quantity.phrase, quantity.format
            for key in [key for key in attributes if key.startswith(f"{name}@")] or [name]:
                device = key.partition("@")[2]
                value, bound = attributes.get(key), budget.get(name if device == self._own_device() else key)
                if isinstance(value, int | float):
                    limit = f" (budget: at most {unit(bound)})" if bound is not None else ""
                    lines.append(f"- {phrase}{f' on {device}' if device else ''}: {unit(value)}{limit}")
        return "\n".join(["Predicted from the lookup table:", "", *lines]) if lines else ""

    def _own_device(self) -> str:
        """What the budget of a job with several devices calls the one that the job measures on."""
        config = self.run.record.provenance.get("config", {})
        return own_name(str(config.get("device", ""))) if isinstance(config, dict) else ""

    def previews(self) -> tuple[Preview, ...]:
        """The preview clips recorded so far."""
        try:
            return RunRecord.load(self.run.path).previews
        except NasError:  # no record yet
            return ()

    def _with_artifacts(self, trial: FrozenTrial) -> FrozenTrial:
        if self.run.space is not None and self.run.space.backbone is not None and self._fits(trial.user_attrs):
            trial.system_attrs |= _artifact(f"{PICTURE}{trial._trial_id:x}", "architecture.png", "image/png")
            if trial.user_attrs["choices"] == self.run.choices:
                trial.system_attrs |= self._clips()
        return trial

    def _fits(self, attributes: dict[str, Any]) -> bool:
        """Whether a trial's attributes hold an architecture of the run's space."""
        try:
            self.run.space.architecture(attributes["choices"])
        except (KeyError, TypeError, ValueError, AttributeError, NasError):
            return False
        return True

    def _clips(self) -> dict[str, str]:
        named = [
            (f"{CLIP}{i:x}", f"{s.model}, {s.steps} steps.gif")
            for i, s in enumerate(self.previews())
            if file_in_run(self.run.path, s.gif)
        ]
        return {key: value for name, file in named for key, value in _artifact(name, file, "image/gif").items()}


class Illustrations:
    """An Optuna `ArtifactStore` with the artifacts of an `IllustratedStorage`; each is drawn or read on request."""

    def __init__(self, storage: IllustratedStorage) -> None:
        self.storage = storage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        kind, digits = artifact_id[: len(PICTURE)], artifact_id[len(PICTURE) :]
        if not re.fullmatch("[0-9a-f]{1,8}", digits):
            raise ArtifactNotFound(f"{artifact_id}: no such artifact in this run")
        number = int(digits, 16)
        if kind == CLIP:
            previews = self.storage.previews()
            path = file_in_run(self.storage.run.path, previews[number].gif) if number < len(previews) else None
            if path is None:
                raise ArtifactNotFound(f"{artifact_id}: no such clip in the run folder")
            return path.open("rb")
        try:
            return io.BytesIO(self._picture(self.storage.get_trial(number).user_attrs["choices"]))
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            NasError,
        ) as error:  # no such trial, or a trial of another space
            raise ArtifactNotFound(f"{artifact_id}: {error}") from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise PermissionError("the artifacts of a run are read-only")

    def remove(self, artifact_id: str) -> None:
        raise PermissionError("the artifacts of a run are read-only")

    def _picture(self, choices: dict[str, str]) -> bytes:
        from matplotlib.figure import Figure

        from nas.report.plots import plot_architecture

        run, file = self.storage.run, io.BytesIO()
        axes = Figure(figsize=(6.4, 4.8)).add_subplot()  # without pyplot, which would keep the figure open
        plot_architecture(run.space, run.space.architecture(choices), run.predict(choices), axes)
        axes.figure.savefig(file, dpi=150, bbox_inches="tight", format="png")
        return file.getvalue()


STUDY_NOTE = (
    "The score is what the search's evaluator returned, higher is better. In `nas run` it is minus the supernet's"
    " validation loss, so it is negative. Each trial's note has its predicted costs."
)


def _note(trial_id: int | None, text: str) -> dict[str, Any]:
    """Attributes that show `text` (Markdown, at most 2045 characters) as the note of a trial, or of the study."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    return {f"{prefix}note_ver": 1, f"{prefix}note_str:0": text} if text else {}


def _artifact(name: str, file: str, mimetype: str) -> dict[str, str]:
    """The attribute by which Optuna finds an artifact."""
    meta = ArtifactMeta(artifact_id=name, filename=file, mimetype=mimetype, encoding=None)
    return {ARTIFACTS_ATTR_PREFIX + name: json.dumps(asdict(meta))}


def serve(run: str | Path, port: int = 8080, browser: bool = True) -> None:
    """Show the dashboard on this machine until Ctrl-C.

    Raises:
        ConfigError: the run has no study yet, or the port is taken.
        MissingDependency: optuna-dashboard is not installed.
    """
    import webbrowser
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            """No line per request, so that the address stays visible."""

    app = application(run)
    try:
        server = make_server("localhost", port, app, handler_class=Quiet)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; give another port") from None
    address = f"http://localhost:{server.server_port}/"
    print(f"{address} shows {Path(run) / 'study.journal'}; stop with Ctrl-C", flush=True)
    if browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()
