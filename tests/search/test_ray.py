"""Ray workers, each of which may die."""

import os
import signal
import time

import optuna
import pytest
from test_study import check_after_kill, finished, start_search, wait_for

from nas.errors import ConfigError
from nas.search import open_storage, run
from tests.support.instances import make

pytestmark = pytest.mark.slow


class Together:
    """Scores from a table. The very first call kills its process; no other returns before two processes have one."""

    def __init__(self, table, folder):
        self.table, self.folder = table, folder

    def __call__(self, arch):
        if self.first_call():
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"{os.getpid()}.alive").touch()
        start = time.time()
        while len(list(self.folder.glob("*.alive"))) < 2:
            assert time.time() - start < 120, "no second worker in two minutes"
            time.sleep(0.02)
        return self.table(arch)

    def first_call(self):
        """Whether no worker was called before, as only one of two that are called at once finds."""
        try:
            (self.folder / "died").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def test_two_workers_work_at_once_and_a_dead_one_is_replaced(tmp_path):
    space, cost, budget, table = make(0, 6, 4)
    study = run(space, cost, Together(table, tmp_path), budget, trials=8, workers=2).study
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 8  # the trial whose worker died was evaluated again
    assert (tmp_path / "died").exists()
    assert len(list(tmp_path.glob("*.alive"))) == 2


def test_a_killed_search_with_two_workers_resumes(tmp_path):
    journal = tmp_path / "study.journal"
    process = start_search(journal, 12, 0.1, workers=2)
    wait_for(journal, 4, process)
    process.kill()
    process.wait()
    before = {trial.number: trial.value for trial in finished(journal)}
    assert start_search(journal, 12, 0.0).wait(timeout=600) == 0
    assert before.items() <= {trial.number: trial.value for trial in finished(journal)}.items()
    check_after_kill(journal, 2)
    assert isinstance(optuna.load_study(study_name="nas", storage=open_storage(journal)).best_value, float)


@pytest.fixture
def cluster():
    """The address of a running Ray cluster with one GPU, in name: processes of their own, as on a real one."""
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False})
    yield running.address
    running.shutdown()


def test_workers_on_a_cluster_by_its_address_share_its_gpu(cluster):
    """Two workers of half a GPU each run where the cluster says, and see the GPU that Ray gives them."""
    space, cost, budget, _ = make(0, 6, 4)

    def on_gpu(arch):
        import os

        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        return float(sum(len(choice) for choice in arch.choices.values()))

    study = run(space, cost, on_gpu, budget, trials=6, workers=2, address=cluster, gpus=0.5).study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
    with pytest.raises(ConfigError, match="2 workers with 1 GPU each need 2 GPUs, the Ray cluster has 1"):
        run(space, cost, on_gpu, budget, trials=6, workers=2, address=cluster, gpus=1.0)
    with pytest.raises(ConfigError, match="no Ray cluster at 'nowhere'"):
        run(space, cost, on_gpu, budget, trials=6, address="nowhere")
