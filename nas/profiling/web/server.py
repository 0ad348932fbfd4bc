"""The HTTP side of the `web` runtime: the page's files, the library's, the models, and the page's messages."""

from __future__ import annotations

from pathlib import Path

from nas.errors import ConfigError
from nas.local_server import FOREVER, LocalServer, Reply
from nas.profiling.digests import file_hash
from nas.profiling.web.exchange import Exchange
from nas.profiling.web.messages import Alive, Answer, Hello, encode, read

PAGE = Path(__file__).parent / "page"


class PageServer(LocalServer):
    """Serves the page, and passes its messages to the exchange.

    Args:
        exchange: gives out jobs.
        library: the folder of LiteRT.js.
        options: see `LocalServer`.
    """

    def __init__(self, exchange: Exchange, library: Path, **options: object) -> None:
        super().__init__([PAGE], **options)
        self.exchange, self.library = exchange, library.resolve()
        self.models: dict[str, Path] = {}
        self.addresses: dict[Path, str] = {}

    def address(self, model: Path) -> str:
        """The address of a model's file, relative to the page; it contains a hash of the content."""
        if model not in self.addresses:
            name = f"{file_hash(model)[:24]}.tflite"
            self.models[name], self.addresses[model] = model, f"models/{name}"
        return self.addresses[model]

    def get(self, path: str) -> Reply | None:
        folder, _, name = path.partition("/")
        if folder == "library" and "/" not in name and (self.library / name).is_file():
            return Reply(self.library / name, cache="max-age=3600")
        if folder == "models":
            return Reply(self.models[name], cache=FOREVER) if name in self.models else None
        return super().get(path)

    def post(self, path: str, body: bytes) -> Reply | None:
        kinds = {"hello": Hello, "next": Alive, "answer": Answer, "alive": Alive, "bye": Alive}
        if path not in kinds:
            return None
        try:
            status, content = getattr(self.exchange, path)(read(kinds[path], body))
        except ConfigError as error:
            status, content = 400, {"problem": str(error)}
            if path == "answer":
                status, content = self.exchange.malformed(str(error))
        return Reply(encode(content), status, "application/json")
