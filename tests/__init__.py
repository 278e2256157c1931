"""Tests; imported before anything of torch, which reads the number of threads when it is loaded."""

import os

# tests run side by side: threads that wait for one another would cost as much as they compute
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads))  # in the processes that tests start as well
