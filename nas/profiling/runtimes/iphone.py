"""An iPhone behind this Mac, by coremltools' remote models: list, load, predict and unload over `devicectl`.

coremltools installs Apple's ModelRunner app on the phone and talks to it by files: each call is a copy to the phone and
copies back until the answer is there. `MLModelBenchmarker` rests on the same calls, but keeps every model loaded and
gives the phone ten seconds to compile one; here a model is on the phone only while it is timed, and has ten minutes.
Written against coremltools 9.0, whose names for this begin with an underscore.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from nas.conversion.convert import coremltools, quiet
from nas.errors import MissingDependency, NasError
from nas.failures import ToolError
from nas.profiling.bundles.compile import Package
from nas.profiling.bundles.runner import UNITS, be_patient, forget, random_inputs, temporary_files_in
from nas.profiling.host import usable, user_cache
from nas.profiling.runtimes.base import Infeasible, Loaded, Session, refusal

MOST_RUNS = 5
"""Of a block: each is a call over the cable that takes a second or so, however short the prediction."""
GUIDE = "see docs/jobs/profile_a_phone.md"


class Phone:
    """A connected iPhone with the ModelRunner app running on it.

    Args:
        name: its name or identifier; empty if only one is connected.
        team: the Apple development team that signs the app; `DEVELOPMENT_TEAM` of the environment if None.

    Attributes:
        device: coremltools' device with its session.
        hardware: what `devicectl` knows of it, such as `productType` and `marketingName`.

    Raises:
        MissingDependency: this is no Mac with Xcode, or the team is not known.
        NasError: no such iPhone is connected, or the app cannot be installed.
    """

    def __init__(self, name: str = "", team: str | None = None) -> None:
        for tool in ("xcrun", "devicectl"):
            if shutil.which(tool) is None:
                raise MissingDependency(
                    f"device 'iphone' needs a Mac with Xcode 15 or newer ('{tool}' is not on the PATH); "
                    f"on this machine use 'nas pack', and measure on a Mac: {GUIDE}"
                )
        coremltools()
        self.team = team or os.environ.get("DEVELOPMENT_TEAM", "")
        if not self.team:
            raise MissingDependency(
                "device 'iphone' installs Apple's ModelRunner app: set DEVELOPMENT_TEAM to the identifier of your Apple "
                f"development team; {GUIDE}"
            )
        self.loop = asyncio.new_event_loop()
        self.device, self.hardware = _find(name)
        self.device = self._prepare()

    @property
    def connected(self) -> bool:
        return any(device.identifier == self.device.identifier for device, _ in _iphones())

    def run(self, call: Coroutine) -> Any:
        """The answer of the phone.

        Raises:
            Infeasible: the phone refuses the call, or the app ended: it crashed, or the phone ran out of memory.
            NasError: the phone is gone, or coremltools fails.
        """
        from coremltools.models.ml_program.experimental.remote_device import _DeviceCtlError

        try:
            with quiet(), tempfile.TemporaryDirectory(prefix="nas-call-") as folder, temporary_files_in(folder):
                return self.loop.run_until_complete(call)
        except (_DeviceCtlError, ValueError, OSError, AttributeError) as error:
            if not self.connected:
                raise NasError(
                    f"iPhone '{self.device.name}' is gone; connect and unlock it, then run the same command again: "
                    "finished rows are kept"
                ) from None
            if not self.device.session.is_alive():
                self.device = self._prepare()
                raise Infeasible("the app on the phone ended: out of memory, or a crash of Core ML") from None
            if isinstance(error, OSError | AttributeError) and not isinstance(error, _DeviceCtlError):
                raise ToolError(f"coremltools failed: {type(error).__name__}: {_text(error)}") from None
            raise Infeasible(f"the phone refuses it: {_text(error)}") from None

    def service(self, compiled: Path, unit: str) -> Any:
        """A model of the phone that is not loaded yet: coremltools' `_RemoteMLModelService`."""
        import coremltools as ct
        from coremltools.models.ml_program.experimental import remote_device as remote

        class Model(remote._RemoteMLModelService):
            def __del__(self) -> None:
                """The inherited one calls the phone, which may be gone, with a coroutine that nobody awaits."""

        async def make() -> Any:
            socket = remote._DeviceCtlSocket(device=self.device, source="Documents/modelrunnerd")
            return Model(remote._DeviceCtlRemoteService(socket), compiled, ct.ComputeUnit[UNITS[unit]])

        return self.loop.run_until_complete(make())

    def close(self) -> None:
        if not self.loop.is_closed():
            self.device.session.stop()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _prepare(self) -> Any:
        """Build (once), install and start the app."""
        from coremltools.models.ml_program.experimental import remote_device as remote

        folder = usable(user_cache("modelrunner"))
        be_patient()
        signing = remote.AppSigningCredentials(development_team=self.team)
        try:
            with quiet():
                return self.loop.run_until_complete(self.device.prepare_for_model_debugging(signing, folder))
        except (remote._AppBuilder.Error, remote._DeviceCtlError, ValueError, OSError) as error:
            raise NasError(
                f"iPhone '{self.device.name}': the ModelRunner app cannot be installed ({_text(error)}); unlock the phone, "
                f"turn on its developer mode, trust this Mac, and check the team '{self.team}' in Xcode"
            ) from None


class PhoneSession(Session):
    """One workload on an iPhone. It is on the phone only while it is timed: the app has little memory.

    Args:
        package: compiled for Core ML.
        unit: a name of `nas.profiling.bundles.runner.UNITS`.
        folder: where its compiled models are kept until it is closed.
    """

    def __init__(self, phone: Phone, package: Package, unit: str, folder: Path) -> None:
        self.phone, self.package, self.unit = phone, package, unit
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.compiled = [compile_model(path, self.folder) for path in package.files]
        self.inputs = [random_inputs(coremltools().utils.load_spec(str(path))) for path in package.files]
        model = self._load(0)
        load_ms = model.load_duration_in_nano_seconds / 1e6
        self._predict_ms(model, 0)
        self._unload(model)
        self.loaded = Loaded(
            memory_mb=package.activations_mb,
            weights_mb=package.weights_mb,
            params=package.params,
            load_ms=load_ms,
            form=package.form,
        )

    def block(self, runs: int) -> list[float]:
        """Latencies in ms of `runs` runs, or of `MOST_RUNS`. For an operator a block of each graph: half the difference of
        three and one."""
        models, blocks = [], []
        try:
            models.extend(self._load(i) for i in range(len(self.compiled)))
            for i, model in enumerate(models):
                times = [self._predict_ms(model, i) for _ in range(min(runs, MOST_RUNS) + 1)]
                blocks.append(times[1:])  # the first, which wakes the chip, does not count
        finally:
            for model in models:
                with contextlib.suppress(Infeasible):
                    self._unload(model)
        if len(blocks) == 1:
            return blocks[0]
        return [(ms - base_ms) / self.package.copies for base_ms, ms in zip(*blocks)]

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, index: int) -> Any:
        model = self.phone.service(self.compiled[index], self.unit)
        self.phone.run(model.load())
        return model

    def _unload(self, model: Any) -> None:
        try:
            self.phone.run(model.unload())
        finally:
            forget(model)

    def _predict_ms(self, model: Any, index: int) -> float:
        self.phone.run(model.predict(self.inputs[index]))
        return model.last_predict_duration_in_nano_seconds / 1e6


def compile_model(package: Path, folder: Path) -> Path:
    """An .mlpackage as the compiled folder that the phone loads. Needs a Mac.

    Raises:
        Infeasible: Core ML cannot compile it.
        ToolError: something else failed.
    """
    out = folder / f"{package.stem}.mlmodelc"
    try:
        return Path(coremltools().models.utils.compile_model(str(package), str(out)))
    except Exception as error:  # whatever the framework raises
        raise refusal("Core ML cannot compile it", error) from None


def _find(name: str) -> tuple[Any, dict[str, Any]]:
    found = _iphones()
    wanted = [pair for pair in found if name in ("", pair[0].name, pair[0].identifier, pair[0].udid)]
    if len(wanted) == 1:
        return wanted[0]
    names = ", ".join(f"'{device.name}'" for device, _ in found) or "none"
    asked = f"iPhone '{name}' is not connected" if name else "which iPhone?" if found else "no iPhone is connected"
    raise NasError(f"{asked}; connected: {names}; unlock it, trust this Mac, and name it as --device iphone:NAME")


def _iphones() -> list[tuple[Any, dict[str, Any]]]:
    """Connected iPhones, and what `devicectl` knows of their hardware."""
    from coremltools.models.ml_program.experimental import remote_device as remote

    try:
        with quiet():
            devices = remote.Device.get_connected_devices(remote.DeviceType.IPHONE)
            listed = remote._DeviceCtl._run_command("xcrun devicectl list devices").get("result") or {}
    except (remote._DeviceCtlError, ValueError, OSError) as error:
        raise NasError(f"devicectl cannot list the phones: {_text(error)}") from None
    hardware = {entry.get("identifier"): entry.get("hardwareProperties", {}) for entry in listed.get("devices", [])}
    return [(device, hardware.get(device.identifier, {})) for device in devices]


def _text(error: BaseException) -> str:
    message = getattr(error, "message", None)
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message or error)
    with contextlib.suppress(IndexError):
        return text.strip().splitlines()[-1][:200]
    return type(error).__name__
