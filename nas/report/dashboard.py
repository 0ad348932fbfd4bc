"""A run's study in optuna-dashboard, with pictures of the architectures and the run's samples as Optuna artifacts.

Optuna refuses to attach anything to a finished trial, and a search that runs writes to the journal anyway. So nothing is
written: the storage that the dashboard reads is the journal with artifacts added to what it says, and their store draws
a picture when the browser asks for it. A search is seen while it runs.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX, ArtifactMeta
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from nas.errors import ConfigError, MissingDependency, NasError
from nas.report.folder import RunFolder
from nas.report.record import RunRecord, Sample
from nas.search import open_storage

PICTURE, CLIP = "a-", "c-"
"""How the artifacts' names begin, before a number in hexadecimal: the dashboard lets no other characters through."""


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
    return optuna_dashboard.wsgi(storage, artifact_store=Illustrations(storage))


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
            study.system_attrs |= self._clips()
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return super().get_study_system_attrs(study_id) | self._clips()

    def samples(self) -> tuple[Sample, ...]:
        """Those that the run has by now."""
        try:
            return RunRecord.load(self.run.path).samples
        except NasError:  # a run that has only begun
            return ()

    def _with_artifacts(self, trial: FrozenTrial) -> FrozenTrial:
        if self.run.space is not None and self.run.space.backbone is not None and "choices" in trial.user_attrs:
            trial.system_attrs |= _artifact(f"{PICTURE}{trial._trial_id:x}", "architecture.png", "image/png")
            if trial.user_attrs["choices"] == self.run.choices:
                trial.system_attrs |= self._clips()
        return trial

    def _clips(self) -> dict[str, str]:
        named = [(f"{CLIP}{i:x}", f"{s.model}, {s.steps} steps.gif") for i, s in enumerate(self.samples())]
        return {key: value for name, file in named for key, value in _artifact(name, file, "image/gif").items()}


class Illustrations:
    """The artifacts of an `IllustratedStorage`, as Optuna's `ArtifactStore`; drawn or read when asked for."""

    def __init__(self, storage: IllustratedStorage) -> None:
        self.storage = storage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        kind, number = artifact_id[: len(PICTURE)], int(artifact_id[len(PICTURE) :], 16)
        if kind == CLIP:
            return (self.storage.run.path / self.storage.samples()[number].gif).open("rb")
        return io.BytesIO(self._picture(self.storage.get_trial(number).user_attrs["choices"]))

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
