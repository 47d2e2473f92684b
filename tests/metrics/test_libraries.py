import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch

from dita.metrics import libraries
from dita.metrics.libraries import BrokenLibraryError, exact_float32, torchmetrics_metric, transformers_class


def broken(monkeypatch, *installed):
    """`import_module` fails as with a torchvision that does not match torch; only `installed` are there."""

    def fail(name):
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError(f"Could not import module {name!r}") from error

    monkeypatch.setattr(libraries.importlib, "import_module", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)


def test_a_torchvision_that_does_not_match_becomes_a_message_that_says_what_to_uninstall(monkeypatch):
    broken(monkeypatch, "torchmetrics", "torchvision")
    for call in (lambda: transformers_class("CLIPModel"), torchmetrics_metric):
        with pytest.raises(BrokenLibraryError) as error:
            call()
        assert "pip uninstall torchvision" in str(error.value)
        assert "operator torchvision::nms does not exist" in str(error.value)


def test_torch_fidelity_without_torchvision_is_named(monkeypatch):
    broken(monkeypatch, "torchmetrics", "torch_fidelity")
    with pytest.raises(BrokenLibraryError, match="pip uninstall torch-fidelity"):
        torchmetrics_metric()


def test_a_missing_torchmetrics_says_what_to_install(monkeypatch):
    broken(monkeypatch)
    with pytest.raises(BrokenLibraryError, match=r"pip install 'dita\[metrics\]'"):
        torchmetrics_metric()


def test_other_failures_are_not_blamed_on_torchvision(monkeypatch):
    broken(monkeypatch)
    with pytest.raises(BrokenLibraryError) as error:
        transformers_class("CLIPModel")
    assert "uninstall" not in str(error.value)


def test_tf32_is_off_inside_and_as_it_was_afterwards(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(KeyError), exact_float32():
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dita", ("torch", "torchmetrics")),
        ("dita.metrics", ("torch", "torchmetrics", "transformers")),
        ("dita.evaluate", ("torchmetrics", "torchvision", "transformers")),
    ],
)
def test_imports_stay_light(module, absent):
    code = f"import sys, {module}; print(*(name for name in {absent!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
