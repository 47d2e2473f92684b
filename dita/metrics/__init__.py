"""Evaluators: how pictures made with an acceleration compare with those made without."""

from dita.metrics.bootstrap import Average, average
from dita.metrics.fidelity import latent_error, psnr, ssim

__all__ = ["Average", "average", "latent_error", "psnr", "ssim"]
