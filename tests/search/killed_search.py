"""Run a search in forked processes, each killed a little later than the one before; print the number of kills.

python killed_search.py SAMPLER STORAGE TRIALS
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from test_search_resume import small

from nas.search import run


def main(sampler: str, storage: str, trials: int) -> None:
    search = small()
    run(*search, trials=2, sampler=sampler, seed=3)  # imports everything
    kills, delay = 0, 0.002
    while True:
        child = os.fork()
        if child == 0:
            run(*search, trials=trials, sampler=sampler, storage=storage, seed=3)
            os._exit(0)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0
                print(kills)
                return
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        delay = delay * 1.4 + 0.005


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
