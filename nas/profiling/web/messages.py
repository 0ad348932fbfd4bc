"""What the page of the `web` runtime is told, and what it answers: the data classes, and the checks of posted numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from nas.config import AtLeast0, build
from nas.errors import ConfigError, shown
from nas.files import parse_json
from nas.ranges import Range

T = TypeVar("T")

MAX_TEXT = 500
"""Characters of a text that a page sends."""
Screen = Literal["unknown", "kept on", "not kept on"]
Bytes = Annotated[int, Range(0, 2**33)]
Ms = Annotated[float, Range(0, 1e8, above=0)]


@dataclass(frozen=True)
class About:
    """A page's description of its browser; the names are empty where the browser does not tell.

    Attributes:
        user_agent: the browser's identification.
        model, platform, platform_version, architecture, browser: as browsers with client hints tell over https.
        cores: that the page may use.
        touch: whether the screen is touched.
        relaxed_simd: whether the browser has WebAssembly's relaxed SIMD instructions.
        isolated: whether the page is cross-origin isolated, so that it may use threads and a fine clock.
        secure: whether the page came over https or from localhost.
        clock_ms: the smallest step of the clock.
        wake_lock: whether the page can keep the screen on.
    """

    user_agent: str
    model: str
    platform: str
    platform_version: str
    architecture: str
    browser: str
    cores: Annotated[int, Range(0, 10_000)]
    touch: bool
    relaxed_simd: bool
    isolated: bool
    secure: bool
    clock_ms: Annotated[float, Range(0, 100, above=0)]
    wake_lock: bool


@dataclass(frozen=True)
class Hello:
    """The first message of a page.

    Attributes:
        page: identifier of the loaded page.
        phone: identifier that the browser keeps when the page is reloaded.
        screen: whether the screen is kept on.
    """

    page: str
    phone: str
    about: About
    screen: Screen = "unknown"


@dataclass(frozen=True)
class Alive:
    """What a page sends every few seconds, and when it asks for work.

    Attributes:
        job: what it runs.
        hidden: whether it is in the background.
        screen: whether the screen is kept on.
    """

    page: str
    job: AtLeast0 | None = None
    hidden: bool = False
    screen: Screen = "unknown"


@dataclass(frozen=True)
class Visit:
    """One visit to one workload: load models in a fresh worker, warm up, time them.

    Attributes:
        models: addresses of the .tflite files.
        samples: how many samples of each, or fewer where runs are slow; 0 to load them only.
        build: of LiteRT.js, see `nas.web_libraries.WASM_BUILDS`.
        threads: of the interpreter.
        warm_ms: shortest warm-up.
        keep: name of a worker that is kept for later visits; empty for none.
    """

    models: tuple[str, ...]
    samples: int
    build: str
    threads: int
    warm_ms: float
    keep: str = ""

    def to_dict(self) -> dict[str, Any]:
        """With the names that the page uses."""
        values = asdict(self)
        return {**values, "warmMs": values.pop("warm_ms"), "models": list(self.models)}


@dataclass(frozen=True)
class ModelResult:
    """What a visit measured of one model.

    Attributes:
        load_ms: time to compile it and run it once.
        file_bytes, input_bytes, output_bytes: sizes of the file and the tensors.
        grown_bytes: growth of the part of the heap that was ever written to, from before it was loaded to after two runs.
        heap_bytes: size of the heap.
        samples_ms: times of a run; a sample is a mean over as many runs as the clock needs.
    """

    load_ms: Annotated[float, Range(0, 1e8)]
    file_bytes: Bytes
    input_bytes: Bytes
    output_bytes: Bytes
    grown_bytes: Bytes
    heap_bytes: Bytes
    samples_ms: tuple[Ms, ...]


@dataclass(frozen=True)
class VisitResult:
    """The result of a visit.

    Attributes:
        models: in the order of the visit's.
        undisturbed: whether the page was in front and awake all the time.
    """

    models: tuple[ModelResult, ...]
    undisturbed: bool


@dataclass(frozen=True)
class VisitFailure:
    """Why a visit failed: for lack of `memory`, because of the `model`, or because of the `page` or the connection."""

    kind: Literal["memory", "model", "page"]
    message: str


@dataclass(frozen=True)
class Answer:
    """The answer to a job: a result or an error."""

    page: str
    job: AtLeast0
    ok: VisitResult | None = None
    error: VisitFailure | None = None
    screen: Screen = "unknown"

    def __post_init__(self) -> None:
        if (self.ok is None) == (self.error is None):
            raise ConfigError("expected either 'ok' or 'error'")


def read(cls: type[T], body: bytes) -> T:
    """A message from the body of a request.

    Raises:
        ConfigError: it is not such a message, or a number is not finite or not possible.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ConfigError("message: is not UTF-8") from None
    raw = parse_json(text, "message", "message", dict)
    for text in _texts(raw):
        if len(text) > MAX_TEXT:
            raise ConfigError(f"message: a text has {len(text)} characters, more than {MAX_TEXT}: {shown(text)}")
    return build(cls, raw, "message")


def check_result(result: VisitResult, visit: Visit, sizes: tuple[int, ...], elapsed_ms: float) -> None:
    """Check that a result can be of a visit.

    Args:
        sizes: bytes of the visit's files.
        elapsed_ms: since the page was told of the visit; the sum of the times cannot be larger.

    Raises:
        ConfigError: it cannot.
    """
    if len(result.models) != len(visit.models):
        raise ConfigError(f"message: {len(result.models)} models instead of {len(visit.models)}")
    for model, size in zip(result.models, sizes):
        number = len(model.samples_ms)
        if number != len(result.models[0].samples_ms) or not min(1, visit.samples) <= number <= visit.samples:
            raise ConfigError(f"message: {number} samples, but {visit.samples} were asked for")
        if model.file_bytes != size:
            raise ConfigError(f"message: a file of {model.file_bytes} bytes instead of {size}")
        if model.grown_bytes > model.heap_bytes:
            raise ConfigError(f"message: the heap of {model.heap_bytes} bytes grew by {model.grown_bytes}")
    total_ms = sum(sum(model.samples_ms) for model in result.models)
    if total_ms > 1.05 * elapsed_ms + 50:
        raise ConfigError(f"message: runs took {total_ms:.4g} ms, but only {elapsed_ms:.4g} ms have passed")


def encode(value: dict[str, Any]) -> bytes:
    """A message for the page."""
    return json.dumps(value).encode()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in inside for text in _texts(part)]
