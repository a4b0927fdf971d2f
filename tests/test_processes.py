"""Jobs over processes: all done, each process with its share of the cores, errors not swallowed."""

from __future__ import annotations

import os

import pytest

from noduscope.processes import over_processes, own_threads


def told(job):
    if job < 0:
        raise ValueError(job)
    return job, os.getpid(), own_threads()


def test_one_worker_works_here():
    assert list(over_processes(told, [3, 4], 1)) == [(3, os.getpid(), 0), (4, os.getpid(), 0)]


def test_several_workers_share_the_cores():
    done = list(over_processes(told, range(5), 2))
    assert sorted(job for job, _, _ in done) == list(range(5))
    assert os.getpid() not in {process for _, process, _ in done}
    assert {threads for _, _, threads in done} == {max(1, (os.cpu_count() or 1) // 2)}


def test_an_error_comes_back():
    with pytest.raises(ValueError, match="-1"):
        list(over_processes(told, [1, -1, 2], 2))
