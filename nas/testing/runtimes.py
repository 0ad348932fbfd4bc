"""The conformance test suite of runtimes. Needs pytest.

class TestMyRuntime(RuntimeTestCase):
    def make_runtime(self):
        return MyRuntime()
"""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path

import pytest

from nas.costs.workload_counts import count_ops
from nas.failures import Infeasible
from nas.profiling import Protocol, Runtime, profile
from nas.profiling.runtimes.base import InModelWorkload
from nas.spaces import Operator, SearchSpace, Workload

SPACE = """
name: conformance
latent: {channels: 4, frames: 4, height: 8, width: 8}
text: {tokens: 4, dim: 16, encoder: minilm}
backbone: {channels: [32], layers_per_block: 1, attention_levels: [], mid: false, heads: 2, norm_groups: 8}
only_sites: [down.0.0]
operators: {none: , SelfAttention1D: {heads: 2}, Conv3D: {kernel: 3}}
"""
PROTOCOL = Protocol(processes=1, cap_s=0.01, slow_cap_s=0.01, min_samples=2, min_blocks=2)


def convolution(side: int) -> Workload:
    """A Conv3D on 32 channels and 4 frames of `side` x `side`. With side 8 it is a workload of `SPACE`."""
    return Workload(Operator("Conv3D", {"kernel": 3}), (1, 32, 4, side, side))


def attention(side: int) -> Workload:
    """As `convolution`, of a kind without variants, so that there is less to convert."""
    return Workload(Operator("SelfAttention1D", {"heads": 2}), (1, 32, 4, side, side))


class RuntimeTestCase:
    """What every runtime must do. No test depends on how fast the machine is.

    Attributes:
        weight_bytes: bytes per weight as the runtime stores it.
        kept_mb: memory that the runtime may keep per layer and count with the weights, in 10^6 bytes.
    """

    weight_bytes: int = 4
    kept_mb: float = 0.0

    def make_runtime(self) -> Runtime:
        """A new runtime; `pytest.skip` where it cannot run."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls):
        with cls().make_runtime() as runtime:
            yield runtime

    @pytest.fixture
    def space(self, tmp_path) -> SearchSpace:
        (tmp_path / "space.yaml").write_text(SPACE)
        return SearchSpace.load(str(tmp_path / "space.yaml"))

    def test_describe_gives_provenance_without_personal_data(self, runtime):
        meta = runtime.describe()
        assert {"runtime", "version", "device", "chip", "os", "threads"} <= set(meta)
        assert meta["runtime"].startswith(runtime.name) and runtime.source in ("measured", "estimated")
        text = json.dumps(meta)
        assert platform.node() not in text and str(Path.home()) not in text  # tables are published

    def test_a_session_has_stats_and_runs_blocks(self, runtime):
        session, counts = runtime.open(convolution(8)), count_ops(convolution(8))
        weights_mb = counts.params * self.weight_bytes / 1e6
        assert session.stats.params == counts.params
        assert weights_mb * (1 - 1e-6) <= session.stats.weights_mb <= (weights_mb + self.kept_mb) * (1 + 1e-6)
        assert math.isnan(session.stats.memory_mb) or session.stats.memory_mb >= 0
        for runs in (1, 5):
            latencies_ms = session.block(runs)
            assert 1 <= len(latencies_ms) <= runs and all(math.isfinite(ms) for ms in latencies_ms)
        session.close()
        session.close()

    def test_reopen_gives_a_session_on_the_same_variant(self, runtime, space):
        workloads = [convolution(8)]
        if runtime.in_model:
            workloads.append(InModelWorkload(space, space.workload("down.0.0/0", "SelfAttention1D")))
        for workload in workloads:
            first = runtime.open(workload)
            second = runtime.reopen(workload, first.stats)
            assert (second.stats.params, second.stats.variant) == (first.stats.params, first.stats.variant)
            assert second.block(2)
            first.close()
            second.close()

    def test_larger_inputs_take_more_memory_and_estimates_more_time(self, runtime):
        small, large = runtime.open(attention(8)), runtime.open(attention(64))
        assert not large.stats.memory_mb < 10 * small.stats.memory_mb
        if runtime.source == "estimated":
            assert large.block(1)[0] > small.block(1)[0]
        small.close()
        large.close()

    def test_a_workload_larger_than_any_memory_is_infeasible(self, runtime):
        with pytest.raises(Infeasible, match="memory"):
            runtime.open(Workload(Operator("Conv1D", {"kernel": 3}), (1, 32, 8, 1 << 17, 1 << 17)))
        session = runtime.open(convolution(8))  # the runtime still works
        assert session.block(1)
        session.close()

    def test_closing_twice_is_allowed(self):
        runtime = self.make_runtime()
        runtime.close()
        runtime.close()

    def test_a_table_is_filled_and_resumed(self, space, tmp_path):
        out = tmp_path / "table.csv"
        runtime = self.make_runtime()
        frame = profile(space, runtime, out=out, protocol=PROTOCOL, progress=False).frame
        assert set(frame["workload"]) == set(map(str, space.workloads()))
        assert set(frame["source"]) == {runtime.source} and set(frame["status"]) == {"ok"}
        assert (frame["latency_ms"] >= 0).all() and ((frame["count"] > 0) == (runtime.source == "measured")).all()
        complete = out.read_text()
        lines = complete.splitlines(keepends=True)
        out.write_text("".join(lines[:-1]) + lines[-1][:20])  # as a process that is killed leaves it
        profile(space, self.make_runtime(), out=out, protocol=PROTOCOL, progress=False)
        assert out.read_text().startswith("".join(lines[:-1])) and len(out.read_text().splitlines()) == len(lines)
        complete = out.read_text()
        profile(space, self.make_runtime(), out=out, protocol=PROTOCOL, progress=False)
        assert out.read_text() == complete  # nothing is measured twice
