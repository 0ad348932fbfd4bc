"""An iPhone connected to this Mac: load models on it and time predictions, through coremltools' remote models.

coremltools installs Apple's ModelRunner app on the phone and talks to it through files that `devicectl` copies: each call
is a copy to the phone, and copies back until the answer has arrived. `MLModelBenchmarker` uses the same calls, but it
keeps every model loaded and gives the phone ten seconds to compile one. Here a model is on the phone only while it is
timed, and may take ten minutes to compile. Written for coremltools 9.0; the names used here begin with an underscore.

This module and those that it imports are also part of the script in a Core ML bundle (`nas.profiling.bundles.script`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.conversion.libraries import coremltools, quiet
from nas.errors import MissingDependency, NasError
from nas.failures import Infeasible, ToolError, framework_error
from nas.profiling.coreml_models import UNITS, GraphTimer, random_inputs, temporary_files_in

MAX_RUNS = 5
"""Runs per block: each is a call over the cable that takes about a second, however short the prediction."""
CALL_TIMEOUT_S, POLL_S = 600.0, 0.2
"""How long the phone may take for one call, such as to compile a model, and how often it is polled."""
GUIDE = "see docs/jobs/profile_a_phone.md"


class IPhone:
    """A connected iPhone with the ModelRunner app running on it.

    Args:
        name: its name or identifier; empty if only one is connected.
        cache: an existing folder that keeps the built app.
        team: the Apple development team that signs the app; `DEVELOPMENT_TEAM` of the environment if None.

    Attributes:
        device: coremltools' device with its session.
        hardware: properties that `devicectl` lists, such as `productType` and `marketingName`.

    Raises:
        MissingDependency: this is not a Mac with Xcode, or the team is not set.
        NasError: no such iPhone is connected, or the app cannot be installed.
    """

    def __init__(self, name: str, cache: Path, team: str | None = None) -> None:
        for tool in ("xcrun", "devicectl"):
            if shutil.which(tool) is None:
                raise MissingDependency(
                    f"device 'iphone' needs a Mac with Xcode 15 or newer ('{tool}' is not on the PATH); "
                    f"on this machine use 'nas bundle create', and measure on a Mac: {GUIDE}"
                )
        coremltools()
        self.cache, self.team = cache, team or os.environ.get("DEVELOPMENT_TEAM", "")
        if not self.team:
            raise MissingDependency(
                "device 'iphone' installs Apple's ModelRunner app: set DEVELOPMENT_TEAM to the identifier of your Apple "
                f"development team; {GUIDE}"
            )
        self.loop = asyncio.new_event_loop()
        self.device, self.hardware = _find_iphone(name)
        self.device = self._prepare()

    @property
    def connected(self) -> bool:
        """Whether `devicectl` lists the phone as connected."""
        return any(device.identifier == self.device.identifier for device, _ in _list_iphones())

    def describe(self) -> dict[str, str]:
        """The phone's hardware and system, for a table's provenance; its identifier only as a hash."""
        names = [self.hardware[key] for key in ("marketingName", "productType") if self.hardware.get(key)]
        return {
            "phone": hashlib.sha256(json.dumps(self.device.identifier).encode()).hexdigest()[:12],
            "chip": ", ".join(names) or "unknown iPhone",
            "os": f"iOS {self.device.os_version} ({self.device.os_build_number})",
        }

    def run(self, call: Coroutine) -> Any:
        """Await one call to the phone.

        Raises:
            Infeasible: Core ML on the phone refuses the call, or the app ended because it crashed or ran out of memory.
            NasError: the phone is disconnected, or coremltools fails.
        """
        from coremltools.models.ml_program.experimental.remote_device import _DeviceCtlError

        try:
            with quiet(), tempfile.TemporaryDirectory(prefix="nas-call-") as folder, temporary_files_in(folder):
                return self.loop.run_until_complete(call)
        except (_DeviceCtlError, ValueError, OSError, AttributeError) as error:
            if not self.connected:
                raise NasError(
                    f"iPhone '{self.device.name}' is disconnected; connect and unlock it, then run the same command again: "
                    "finished rows are kept"
                ) from None
            if not self.device.session.is_alive():
                self.device = self._prepare()
                raise Infeasible("the app on the phone ended: out of memory, or a crash of Core ML") from None
            if isinstance(error, OSError | AttributeError) and not isinstance(error, _DeviceCtlError):
                raise ToolError(f"coremltools failed: {type(error).__name__}: {_last_message(error)}") from None
            raise Infeasible(f"the phone refuses it: {_last_message(error)}") from None

    def remote_model(self, compiled: Path, unit: str) -> Any:
        """A model for the phone that is not loaded yet: coremltools' `_RemoteMLModelService`."""
        ct = coremltools()
        from coremltools.models.ml_program.experimental import remote_device as remote

        class RemoteModel(remote._RemoteMLModelService):
            def __del__(self) -> None:
                """Override the inherited one, which creates a coroutine to unload the model and never awaits it."""

        async def make() -> Any:
            socket = remote._DeviceCtlSocket(device=self.device, source="Documents/modelrunnerd")
            return RemoteModel(remote._DeviceCtlRemoteService(socket), compiled, ct.ComputeUnit[UNITS[unit]])

        return self.loop.run_until_complete(make())

    def close(self) -> None:
        """Stop the app. Closing twice is fine."""
        if not self.loop.is_closed():
            self.device.session.stop()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def _prepare(self) -> Any:
        """Build (once), install and start the app."""
        from coremltools.models.ml_program.experimental import remote_device as remote

        patch_remote_timeout()
        signing = remote.AppSigningCredentials(development_team=self.team)
        try:
            with quiet():
                return self.loop.run_until_complete(self.device.prepare_for_model_debugging(signing, self.cache))
        except (remote._AppBuilder.Error, remote._DeviceCtlError, ValueError, OSError) as error:
            raise NasError(
                f"iPhone '{self.device.name}': the ModelRunner app cannot be installed ({_last_message(error)}); unlock the "
                f"phone, turn on its developer mode, trust this Mac, and check the team '{self.team}' in Xcode"
            ) from None


class PhoneModel:
    """A compiled model loaded on an iPhone; a `TimedModel`.

    Attributes:
        load_ms: time that the phone took to load it.
    """

    def __init__(self, phone: IPhone, compiled: Path, inputs: dict[str, Any], unit: str) -> None:
        self.phone, self.inputs = phone, inputs
        self.model = phone.remote_model(compiled, unit)
        phone.run(self.model.load())
        self.load_ms = self.model.load_duration_in_nano_seconds / 1e6

    def predict_ms(self) -> float:
        self.phone.run(self.model.predict(self.inputs))
        return self.model.last_predict_duration_in_nano_seconds / 1e6

    def unload(self) -> None:
        try:
            self.phone.run(self.model.unload())
        finally:
            delete_remote_outputs(self.model)


class PhoneWorkload:
    """A workload compiled for an iPhone, which is on the phone only while it is timed: the app has little memory.

    Args:
        packages: the workload's .mlpackage and, for an operator, the one with `copies` more of it.
        unit: a key of `UNITS`.
        folder: for the compiled models.
    """

    def __init__(self, phone: IPhone, packages: Sequence[Path], copies: int, unit: str, folder: Path) -> None:
        self.phone, self.copies, self.unit = phone, copies, unit
        self.compiled = [compile_model(path, folder) for path in packages]
        self.inputs = [random_inputs(coremltools().utils.load_spec(str(path))) for path in packages]

    @contextlib.contextmanager
    def on_phone(self) -> Iterator[GraphTimer]:
        """Load the models on the phone, and unload them at the end."""
        models: list[PhoneModel] = []
        try:
            for compiled, inputs in zip(self.compiled, self.inputs):
                models.append(PhoneModel(self.phone, compiled, inputs, self.unit))
            yield GraphTimer(models[0], models[1] if len(models) > 1 else None, self.copies, warm_up=1)
        finally:
            for model in models:
                with contextlib.suppress(Infeasible):
                    model.unload()


def compile_model(package: Path, folder: Path) -> Path:
    """Compile an .mlpackage to the .mlmodelc folder that the phone loads. Needs a Mac.

    Raises:
        Infeasible: Core ML cannot compile it.
        ToolError: something else failed.
    """
    out = folder / f"{package.stem}.mlmodelc"
    try:
        return Path(coremltools().models.utils.compile_model(str(package), str(out)))
    except Exception as error:  # the framework raises many types
        raise framework_error("Core ML cannot compile it", error) from None


def patch_remote_timeout() -> None:
    """Give the phone `CALL_TIMEOUT_S` for a call, and let coremltools notice that its app ended.

    coremltools 9.0 gives it ten seconds, and reads `session.is_alive` without calling it, which is always true.
    """
    from coremltools.models.ml_program.experimental import remote_device as remote

    remote._DeviceCtlRemoteService.__init__.__defaults__ = (POLL_S, int(CALL_TIMEOUT_S / POLL_S))
    remote._DeviceCtlSocket.is_alive = property(lambda socket: socket.device.session.is_alive())


def delete_remote_outputs(model: Any) -> None:
    """Delete the outputs of a model on a phone, which coremltools keeps in a folder of its connection."""
    shutil.rmtree(model._service.socket.working_directory, ignore_errors=True)


def _find_iphone(name: str) -> tuple[Any, dict[str, Any]]:
    phones = _list_iphones()
    matching = [pair for pair in phones if name in ("", pair[0].name, pair[0].identifier, pair[0].udid)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(f"'{device.name}'" for device, _ in phones) or "none"
    problem = f"iPhone '{name}' is not connected" if name else "several iPhones" if phones else "no iPhone is connected"
    raise NasError(f"{problem}; connected: {names}; unlock it, trust this Mac, and name it as --device iphone:NAME")


def _list_iphones() -> list[tuple[Any, dict[str, Any]]]:
    """Connected iPhones with the hardware properties that `devicectl` lists."""
    from coremltools.models.ml_program.experimental import remote_device as remote

    try:
        with quiet():
            devices = remote.Device.get_connected_devices(remote.DeviceType.IPHONE)
            listed = remote._DeviceCtl._run_command("xcrun devicectl list devices").get("result") or {}
    except (remote._DeviceCtlError, ValueError, OSError) as error:
        raise NasError(f"devicectl cannot list the phones: {_last_message(error)}") from None
    hardware = {entry.get("identifier"): entry.get("hardwareProperties", {}) for entry in listed.get("devices", [])}
    return [(device, hardware.get(device.identifier, {})) for device in devices]


def _last_message(error: BaseException) -> str:
    message = getattr(error, "message", None)
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message or error)
    with contextlib.suppress(IndexError):
        return text.strip().splitlines()[-1][:200]
    return type(error).__name__
