"""Work spread over processes that share the processor's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")

_threads = 0


def own_threads() -> int:
    """Processor threads that this process may use; 0: all there are."""
    return _threads


def over_processes(work: Callable[[Job], Done], jobs: Sequence[Job], workers: int) -> Iterator[Done]:
    """What `work` makes of each job, as they are done: here, or over so many processes.

    Parameters
    ----------
    work : a function of a module, which processes can load. What it raises ends the rest.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from map(work, jobs)
        return
    # a single job needs no processes: 25 ms less to load
    from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: PLC0415
    from multiprocessing import get_context  # noqa: PLC0415

    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_share_cores, initargs=(threads,)) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _share_cores(threads: int) -> None:
    """Give this process its share."""
    global _threads  # noqa: PLW0603  (a worker process has one share, set once when it starts)
    _threads = threads
    # TensorFlow and PyTorch read these when they are loaded
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import cv2  # noqa: PLC0415

    cv2.setNumThreads(threads)
