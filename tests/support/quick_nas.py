"""`nas` with a short measurement protocol, for tests in which the latencies do not matter: `python quick_nas.py ARGUMENTS`."""

import functools
import sys

from nas.cli import main
from nas.profiling import Protocol, measuring

PROTOCOL = functools.partial(Protocol, processes=1, cap_s=0.05, slow_cap_s=0.05, min_samples=6)

if __name__ == "__main__":
    measuring.Protocol = PROTOCOL
    sys.exit(main())
