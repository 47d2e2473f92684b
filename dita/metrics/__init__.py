"""Evaluators: how pictures made with an acceleration compare with those made without."""

from dita.metrics.bootstrap import Average, average
from dita.metrics.fidelity import latent_error, psnr, ssim
from dita.metrics.proportion import Share, share

__all__ = ["Average", "Share", "average", "latent_error", "psnr", "share", "ssim"]
