"""A run's study in optuna-dashboard, with pictures of the architectures and the run's samples as Optuna artifacts.

Optuna refuses to attach anything to a finished trial, and a search that runs writes to the journal anyway. So nothing is
written: the storage that the dashboard reads is the journal with artifacts added to what it says, and their store draws
a picture when the browser asks for it. A search is seen while it runs.
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
from nas.runs.folder import RunFolder, file_in_run
from nas.runs.record import Preview, RunRecord
from nas.search import open_storage

PICTURE, CLIP = "a-", "c-"
"""How the artifacts' names begin, before a number in hexadecimal: the dashboard lets no other characters through."""

THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.I)
"""The hosts that a browser on this machine may ask for; any port, since one may be forwarded."""


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
    """A WSGI application that answers requests for this machine alone.

    A web page elsewhere can point a name of its own at 127.0.0.1 and read whatever answers there (DNS rebinding), or
    send requests to it. The browser then says the foreign name in `Host` or `Origin`.
    """

    def guarded(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        host, origin = environ.get("HTTP_HOST", "localhost"), environ.get("HTTP_ORIGIN", "")
        if THIS_MACHINE.fullmatch(host) and (not origin or THIS_MACHINE.fullmatch(origin.partition("://")[2])):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"The dashboard answers requests for localhost only.\n"]

    return guarded


class IllustratedStorage(optuna.storages.JournalStorage):
    """A run's journal, whose trials have the pictures of their architectures and whose study has the run's samples.

    The samples are those of the winner, so its trial has them, too.

    Raises:
        ConfigError: the run has no study yet.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, journal = run, run.path / "study.journal"
        if not journal.exists():
            raise ConfigError(f"{journal}: not there yet; the run has not come to its search")
        super().__init__(open_storage(journal)._backend)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._with_artifacts(super().get_trial(trial_id))

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy=True, states=states)
        return [self._with_artifacts(trial) for trial in trials]

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        for study in studies:
            study.system_attrs = self._illustrated(study.system_attrs, study._study_id)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._illustrated(super().get_study_system_attrs(study_id), study_id)

    def _illustrated(self, attributes: dict[str, Any], study_id: int) -> dict[str, Any]:
        """A study's attributes with its samples, the name of its objective, and a note of each trial's costs."""
        added = {"study:metric_names": ["score"], **_note(None, STUDY_NOTE)}
        for trial in super().get_all_trials(study_id, deepcopy=False):
            added |= _note(trial._trial_id, self._costs(trial.user_attrs))
        return added | attributes | self._clips()

    def _costs(self, attributes: dict[str, Any]) -> str:
        """The predicted costs of a trial's architecture as a list in Markdown, with the budget where it is known."""
        lines = []
        for name, quantity in findings.QUANTITIES.items():
            words, unit = quantity.phrase, quantity.format
            value, bound = attributes.get(name), self.run.record.budget.get(name)
            if isinstance(value, int | float):
                limit = f" (budget: at most {unit(bound)})" if bound is not None else ""
                lines.append(f"- {words}: {unit(value)}{limit}")
        return "\n".join(["Predicted from the lookup table:", "", *lines]) if lines else ""

    def previews(self) -> tuple[Preview, ...]:
        """Those that the run has by now."""
        try:
            return RunRecord.load(self.run.path).previews
        except NasError:  # a run that has only begun
            return ()

    def _with_artifacts(self, trial: FrozenTrial) -> FrozenTrial:
        if self.run.space is not None and self.run.space.backbone is not None and self._fits(trial.user_attrs):
            trial.system_attrs |= _artifact(f"{PICTURE}{trial._trial_id:x}", "architecture.png", "image/png")
            if trial.user_attrs["choices"] == self.run.choices:
                trial.system_attrs |= self._clips()
        return trial

    def _fits(self, attributes: dict[str, Any]) -> bool:
        """Whether a trial has an architecture of the run's space."""
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
    """The artifacts of an `IllustratedStorage`, as Optuna's `ArtifactStore`; drawn or read when asked for."""

    def __init__(self, storage: IllustratedStorage) -> None:
        self.storage = storage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        kind, digits = artifact_id[: len(PICTURE)], artifact_id[len(PICTURE) :]
        if not re.fullmatch("[0-9a-f]{1,8}", digits):
            raise ArtifactNotFound(f"{artifact_id}: no artifact of this run")
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
        ) as error:  # no such trial, or of another space
            raise ArtifactNotFound(f"{artifact_id}: {error}") from None

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise PermissionError("a run's artifacts are made by the run")

    def remove(self, artifact_id: str) -> None:
        raise PermissionError("a run's artifacts are made by the run")

    def _picture(self, choices: dict[str, str]) -> bytes:
        from matplotlib.figure import Figure

        from nas.report.plots import plot_architecture

        run, file = self.storage.run, io.BytesIO()
        axes = Figure(figsize=(6.4, 4.8)).add_subplot()  # without pyplot: no window, nothing to close
        plot_architecture(run.space, run.space.architecture(choices), run.predict(choices), axes)
        axes.figure.savefig(file, dpi=150, bbox_inches="tight", format="png")
        return file.getvalue()


STUDY_NOTE = (
    "The score is what the search's evaluator returned, higher is better. In `nas run` it is minus the supernet's"
    " validation loss, so it is below 0. Each trial's note has its predicted costs."
)


def _note(trial_id: int | None, words: str) -> dict[str, Any]:
    """Attributes that show `words` (Markdown, at most 2045 characters) as the note of a trial, or of the study."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    return {f"{prefix}note_ver": 1, f"{prefix}note_str:0": words} if words else {}


def _artifact(name: str, file: str, mimetype: str) -> dict[str, str]:
    """An attribute that tells Optuna of an artifact."""
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
            """A line per request would bury the address."""

    app = application(run)
    try:
        server = make_server("localhost", port, app, handler_class=Quiet)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}; give another one") from None
    address = f"http://localhost:{server.server_port}/"
    print(f"{address} shows {Path(run) / 'study.journal'}; stop with Ctrl-C", flush=True)
    if browser:
        webbrowser.open(address)
    with server:
        server.serve_forever()
