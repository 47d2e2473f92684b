"""Processes as torchrun starts them, for tests: forked, so that they run whatever function the test has."""

from __future__ import annotations

import multiprocessing
import os
import socket

FORK = multiprocessing.get_context("fork")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def launched(run, count: int = 2) -> list[int]:
    """The exit codes of `count` processes that each call `run`, which may return or raise an exit code."""
    port = free_port()

    def child(rank):
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        os._exit(run() or 0)

    processes = [FORK.Process(target=child, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:  # as torchrun does: when one dies, the others are ended
        while process.is_alive():
            process.join(0.05)
            if any(other.exitcode not in (None, 0) for other in processes):
                process.join(5)
                process.kill()
    return [process.exitcode for process in processes]
