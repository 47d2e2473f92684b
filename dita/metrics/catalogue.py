"""The metrics by name: what each one is, its range, its direction and its source. For the CLI, reports and docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dita.values import shown, unknown

Kind = Literal["distribution", "text", "paired"]
Need = Literal["none", "inception", "clip", "cmmd", "pickscore", "hpsv2", "image-reward", "dino", "lpips", "lpips-vgg"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    `kind` says what it compares: a set of pictures with a reference set, a picture with its prompt, or a picture with
    the plain pipeline's of the same prompt and seed. `needs` names its network, `form` how its values are written.
    """

    name: str
    title: str
    kind: Kind
    range: str
    better: Literal["higher", "lower"]
    needs: Need
    source: str
    form: str
    unit: str = ""


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("kid", "KID x1000", "distribution", "about 0 and up", "lower", "inception",
               "Bińkowski et al. 2018, arXiv 1801.01401", ".3f"),
        Metric("fid", "FID", "distribution", "0 and up", "lower", "inception",
               "Heusel et al. 2017, arXiv 1706.08500", ".3f"),
        Metric("cmmd", "CMMD", "distribution", "0 and up", "lower", "cmmd",
               "Jayasumana et al. 2024, arXiv 2401.09603", ".4f"),
        Metric("fd-dinov2", "FD-DINOv2", "distribution", "0 and up", "lower", "dino",
               "Stein et al. 2023, arXiv 2306.04675", ".2f"),
        Metric("clip", "CLIP score", "text", "0 to 100", "higher", "clip",
               "Hessel et al. 2021, arXiv 2104.08718", ".2f"),
        Metric("image-reward", "ImageReward", "text", "about -2.3 to 2", "higher", "image-reward",
               "Xu et al. 2023, arXiv 2304.05977", ".3f"),
        Metric("pickscore", "PickScore", "text", "about -100 to 100", "higher", "pickscore",
               "Kirstain et al. 2023, arXiv 2305.01569", ".2f"),
        Metric("hpsv2", "HPSv2", "text", "-1 to 1", "higher", "hpsv2",
               "Wu et al. 2023, arXiv 2306.09341", ".4f"),
        Metric("psnr", "PSNR", "paired", "0 dB and up, infinite where identical", "higher", "none",
               "data range 1, per picture", ".1f", "dB"),
        Metric("ssim", "SSIM", "paired", "-1 to 1", "higher", "none",
               "Wang et al. 2004, doi 10.1109/TIP.2003.819861", ".3f"),
        Metric("lpips", "LPIPS (alex)", "paired", "0 and up", "lower", "lpips",
               "Zhang et al. 2018, arXiv 1801.03924", ".4f"),
        Metric("lpips-vgg", "LPIPS (vgg)", "paired", "0 and up", "lower", "lpips-vgg",
               "Zhang et al. 2018, arXiv 1801.03924", ".4f"),
        Metric("clip-image", "CLIP image similarity", "paired", "-1 to 1", "higher", "clip",
               "cosine of CLIP image embeddings", ".4f"),
        Metric("dino", "DINO similarity", "paired", "-1 to 1", "higher", "dino",
               "cosine of DINOv2 class tokens (Oquab et al. 2023, arXiv 2304.07193)", ".4f"),
    )
}  # fmt: skip
"""All metrics of `dita evaluate` in the order of its report: KID stands before FID, as it holds for small samples."""


def parse(text: str) -> list[Metric]:
    """The metrics of a list with commas between, in the order of `METRICS`, each once.

    Raises `ValueError` for an unknown name.
    """
    if not isinstance(text, str):
        raise ValueError(f"metrics are names with commas between, such as 'clip,fid', got {shown(text)}")
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if not names:
        raise ValueError(f"no metrics were given; known: {', '.join(METRICS)}")
    return [metric for name, metric in METRICS.items() if name in names]


def check_metrics(metrics: object) -> None:
    """Raises `ValueError` for what is no list of metrics, such as their names."""
    if not isinstance(metrics, (list, tuple)) or not all(isinstance(metric, Metric) for metric in metrics):
        raise ValueError(f"metrics must be a list, as parse('clip,fid') gives it, got {shown(metrics)}")
