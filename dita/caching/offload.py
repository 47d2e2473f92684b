"""Copies of tensors in the host's memory: sent there beside the computation, and fetched ahead of their use."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

AHEAD = 3
"""Tensors that are on their way to the device at the same time."""


class Carrier:
    """Copies between one CUDA device and pinned memory of the host, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._line: deque[Tensor] = deque()
        self._arriving: dict[int, tuple[Tensor, torch.cuda.Event]] = {}  # by the address on the host

    def expect(self, hosts: Iterable[Tensor]) -> None:
        """Fetches `hosts`, in the order of their use, some ahead; what was expected before is forgotten."""
        self._arriving.clear()
        self._line = deque(hosts)
        self._fetch_ahead()

    def send(self, x: Tensor) -> Tensor:
        """A copy of `x` in the host's memory, which is complete for whatever is fetched later."""
        host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            host.copy_(x, non_blocking=True)
        x.record_stream(self._stream)  # its memory is not handed out again before the copy is made
        return host

    def fetch(self, host: Tensor) -> Tensor:
        """A copy on the device of what `send` returned."""
        if host.data_ptr() not in self._arriving:
            self._start(host)
        x, arrived = self._arriving.pop(host.data_ptr())
        current = torch.cuda.current_stream(self.device)
        current.wait_event(arrived)
        x.record_stream(current)
        self._fetch_ahead()
        return x

    def _fetch_ahead(self) -> None:
        while self._line and len(self._arriving) < AHEAD:
            self._start(self._line.popleft())

    def _start(self, host: Tensor) -> None:
        with torch.cuda.stream(self._stream):
            x = torch.empty(host.shape, dtype=host.dtype, device=self.device)
            x.copy_(host, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        self._arriving[host.data_ptr()] = x, arrived


@functools.cache
def carrier(device: torch.device) -> Carrier:
    """The one of a CUDA device."""
    return Carrier(device)


def expect(hosts: Iterable[Tensor], device: torch.device) -> None:
    """Tells that `hosts` will be used on `device`, in this order, by the coming transformer call."""
    if device.type == "cuda":
        carrier(device).expect(hosts)


def to_host(x: Tensor) -> Tensor:
    """A copy of `x` in the host's memory; on CUDA it is made while the device goes on."""
    return torch.ops.dita.to_host(x) if torch.compiler.is_compiling() else _sent(x)


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of what `to_host` returned; on CUDA it may have been made already."""
    return torch.ops.dita.to_device(host, device) if torch.compiler.is_compiling() else _fetched(host, device)


def _sent(x: Tensor) -> Tensor:
    if x.device.type == "cuda":
        return carrier(x.device).send(x.detach())
    return x.detach().to("cpu", copy=True).contiguous()


def _fetched(host: Tensor, device: torch.device) -> Tensor:
    return carrier(device).fetch(host) if device.type == "cuda" else host.to(device, copy=True)


# Streams, events and pinned memory have no place in a compiled graph: there these two are operators of their own.
_to_host = torch.library.custom_op("dita::to_host", _sent, mutates_args=())
_to_device = torch.library.custom_op("dita::to_device", _fetched, mutates_args=())


@_to_host.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cpu")


@_to_device.register_fake
def _(host: Tensor, device: torch.device) -> Tensor:
    return torch.empty(host.shape, dtype=host.dtype, device=device)
