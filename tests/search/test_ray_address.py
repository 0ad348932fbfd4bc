"""An address at which no Ray cluster answers is one line, before Ray itself tries for two minutes."""

import socket

import pytest

from nas.errors import ConfigError
from nas.search import run
from tests.support.instances import make


@pytest.fixture
def closed_port():
    """A port of this machine that is taken but at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_answers(closed_port, scheme, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked to connect"))
    space, cost, budget, table = make(0, 3, 3)
    address = f"{scheme}127.0.0.1:{closed_port}"
    with pytest.raises(ConfigError, match=f"no Ray cluster at '{address}' .ConnectionRefusedError") as raised:
        run(space, cost, table, budget, trials=2, workers=2, address=address)
    assert "\n" not in str(raised.value)


def test_a_port_that_is_none():
    space, cost, budget, table = make(0, 3, 3)
    with pytest.raises(ConfigError, match="no Ray cluster at 'head:99999'"):
        run(space, cost, table, budget, trials=2, workers=2, address="head:99999")
