"""Evaluators: how pictures made with an acceleration compare with those made without, with prompts, and with real ones.

Pure functions here and in the modules below; the streaming classes are in `dita.metrics.streaming`, which needs
torchmetrics. `docs/metrics.md` says what each value means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dita.metrics.bootstrap import Average, average, difference
from dita.metrics.fidelity import largest_difference, latent_error, psnr, ssim
from dita.metrics.proportion import Share, share

if TYPE_CHECKING:
    from dita.metrics.clip import clip_score, load_clip
    from dita.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_of_features
    from dita.metrics.image_reward import load_image_reward
    from dita.metrics.inception import load_inception
    from dita.metrics.kernels import cmmd, kid
    from dita.metrics.lpips import load_lpips
    from dita.metrics.video import export_for_vbench, per_frame, temporal_flicker

_TORCH = {  # imported when first asked for: fidelity and intervals need numpy only
    "FeatureStatistics": "frechet",
    "clip_score": "clip",
    "cmmd": "kernels",
    "export_for_vbench": "video",
    "frechet_distance": "frechet",
    "frechet_distance_of_features": "frechet",
    "kid": "kernels",
    "load_clip": "clip",
    "load_image_reward": "image_reward",
    "load_inception": "inception",
    "load_lpips": "lpips",
    "per_frame": "video",
    "temporal_flicker": "video",
}

__all__ = [
    "Average",
    "FeatureStatistics",
    "Share",
    "average",
    "clip_score",
    "cmmd",
    "difference",
    "export_for_vbench",
    "frechet_distance",
    "frechet_distance_of_features",
    "kid",
    "largest_difference",
    "latent_error",
    "load_clip",
    "load_image_reward",
    "load_inception",
    "load_lpips",
    "per_frame",
    "psnr",
    "share",
    "ssim",
    "temporal_flicker",
]


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module 'dita.metrics' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"dita.metrics.{_TORCH[name]}"), name)
