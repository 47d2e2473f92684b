"""Importing the libraries that a broken neighbour can break, with a message that says what to mend."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class BrokenLibraryError(ImportError):
    """A library is missing or cannot be imported; the message says what to install or to uninstall."""


def transformers_class(name: str, module: str = "transformers") -> Any:
    """A class of transformers.

    Raises `BrokenLibraryError` that says to uninstall torchvision, where one is there that does not match torch: it
    keeps transformers from importing its CLIP and BLIP classes.
    """
    with _blaming_torchvision(f"transformers cannot import {name}"):
        return getattr(importlib.import_module(module), name)


def torchmetrics_metric() -> Any:
    """`torchmetrics.Metric`.

    Raises `BrokenLibraryError` where torchmetrics is not installed, and where torchvision (one that does not match
    torch) or torch-fidelity (without torchvision) keeps it from being imported.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise BrokenLibraryError("the streaming metrics need torchmetrics: pip install 'dita[metrics]'")
    with _blaming_torchvision("torchmetrics cannot be imported"):
        return importlib.import_module("torchmetrics").Metric


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, in which CUDA runs convolutions by default: features in full float32; settings are put back."""
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@contextmanager
def _blaming_torchvision(what: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = _first_cause(error)
        advice = ""
        if importlib.util.find_spec("torchvision") is not None:
            advice = (
                "; torchvision is installed and may not match this torch"
                f" ({torch.__version__}): pip uninstall torchvision, or install the one that matches"
            )
        elif importlib.util.find_spec("torch_fidelity") is not None:
            advice = "; torch-fidelity is installed without torchvision: pip uninstall torch-fidelity"
        raise BrokenLibraryError(f"{what} ({reason}){advice}") from error


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
