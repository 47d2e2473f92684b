"""Open-Sora's named shapes, its published schedule and FLOPs (spec/methods.md 4 and 11.7)."""

from __future__ import annotations

import pytest
import torch

from dita import models
from dita.methods import FORA, Plain, ToCa
from dita.shapes import NAMED_SHAPES, Kind, OpenSoraShape, Site, named_shape

PUBLISHED = named_shape("opensora-1.2-480p-2s")

# 2 frames of 1 x 3 patches, 2 text tokens, width 4: every number below can be worked by hand
SMALL = OpenSoraShape(
    name="small",
    layers=2,
    width=4,
    mlp_width=16,
    text_tokens=2,
    frames=2,
    grid=(1, 3),
    guided=False,
    caption_width=6,
)


def test_sites_come_in_the_order_in_which_a_forward_reaches_them() -> None:
    assert [str(site) for site in SMALL.sites()][:7] == [
        "spatial.0.attn",
        "spatial.0.cross_attn",
        "spatial.0.mlp",
        "temporal.0.attn",
        "temporal.0.cross_attn",
        "temporal.0.mlp",
        "spatial.1.attn",
    ]
    assert len(SMALL.sites()) == 12


@pytest.mark.parametrize(
    ("site", "kind", "tokens", "flops"),
    [
        # 2 frames, each: q, k, v, out of 2*4*4 for 3 tokens, and two products of 2*3*4 for each
        (Site("spatial", 0, "attn"), Kind.FULL, 6, 2 * (3 * 4 * 32 + 3 * 2 * 24)),
        # 3 places, each: the same for 2 tokens that see 2
        (Site("temporal", 0, "attn"), Kind.FULL, 6, 3 * (2 * 4 * 32 + 2 * 2 * 16)),
        (Site("temporal", 0, "attn"), Kind.REUSE, 0, 0),
        # q and out of 2*4*4, two products of 2*2*4 a token; keys and values of 2 text tokens
        (Site("spatial", 0, "cross_attn"), Kind.FULL, 6, 6 * (2 * 32 + 2 * 16) + 2 * 2 * 32),
        (Site("spatial", 0, "cross_attn"), Kind.PARTIAL, 1, 2 * 32 + 2 * 16 + 2 * 2 * 32),
        (Site("spatial", 0, "cross_attn"), Kind.REUSE, 0, 0),
        (Site("temporal", 0, "mlp"), Kind.FULL, 6, 6 * 2 * 128),
        (Site("temporal", 0, "mlp"), Kind.PARTIAL, 1, 2 * 128),
    ],
)
def test_flops_of_a_site(site: Site, kind: Kind, tokens: int, flops: int) -> None:
    assert SMALL.flops(site, kind, tokens) == flops


def test_the_reference_projects_the_text_even_for_no_query() -> None:
    assert SMALL.flops(Site("spatial", 0, "cross_attn"), Kind.REUSE, 0, "pre-projection") == 2 * 2 * 32


@pytest.mark.parametrize(
    ("method", "tflops", "published"),
    [(Plain(), 3288.9, 3283.20), (FORA(2), 1754.1, 1751.32), (ToCa(3, 0.9), 1394.8, 1394.03)],
    ids=lambda value: value.label() if hasattr(value, "label") else None,
)
def test_flops_are_those_of_the_reference(method, tflops: float, published: float) -> None:
    total = method.plan(PUBLISHED, 30).flops() / 1e12
    assert total == pytest.approx(tflops, rel=3e-3)
    assert total == pytest.approx(published, rel=1e-3)


def test_the_paper_s_80_percent_is_a_fresh_ratio_of_0_13() -> None:
    assert ToCa(3, 0.87).plan(PUBLISHED, 30).flops() / 1e12 == pytest.approx(1439.70, rel=1e-3)


def test_the_published_schedule() -> None:
    plan = ToCa(3, 0.9).plan(PUBLISHED, 30)
    full = {
        module: [s for s, step in enumerate(plan.steps) if step[Site("spatial", 0, module)].kind is Kind.FULL]
        for module in ("attn", "cross_attn", "mlp")
    }
    assert full["attn"] == full["mlp"] == [0, 1, 2, *range(3, 30, 3)]
    assert full["cross_attn"] == [0, 1, 2, 6, 12, 18, 24]
    assert plan.tokens() == {"cross_attn": [0] * 56, "mlp": [3565] * 56}
    fora = FORA(2).plan(PUBLISHED, 30)
    assert fora.full_steps == (0, 1, *range(2, 30, 2))


def test_a_cross_cycle_of_one_s_own() -> None:
    plan = ToCa(3, 0.9, cross_cycle=3).plan(PUBLISHED, 30)
    assert plan.full_steps == (0, 1, 2, *range(3, 30, 3))
    assert ToCa(1, 0.9).plan(PUBLISHED, 30).full_steps == tuple(range(30))


def test_token_scores_are_counted_where_the_text_is_read() -> None:
    """Cross-attention is full at 7 steps; those at 0 and 1 are followed by a full step, so nothing is scored there."""
    plan = ToCa(3, 0.9, score="attention").plan(PUBLISHED, 30)
    assert plan.score_flops == 5 * 56 * 2 * 23850 * 20 * 1152 * 2


@pytest.mark.parametrize(
    ("name", "frames", "tokens"),
    [
        ("144p-2s", 15, 2160),
        ("240p-2s", 15, 6075),
        ("360p-2s", 15, 13800),
        ("480p-2s", 15, 23850),
        ("720p-2s", 15, 54000),
        ("480p-4s", 30, 47700),
        ("480p-8s", 60, 95400),
        ("480p-16s", 120, 190800),
    ],
)
def test_named_shapes_have_the_published_tokens(name: str, frames: int, tokens: int) -> None:
    shape = named_shape(f"opensora-1.2-{name}")
    assert (shape.frames, shape.image_tokens) == (frames, tokens)


def test_named_shapes_are_the_landscape_sizes_of_the_pipeline() -> None:
    from dita.pipelines.opensora.sizes import DURATIONS, SIZES

    names = [name for name in NAMED_SHAPES if name.startswith("opensora")]
    assert len(names) == 20
    for name in names:
        _, _, resolution, duration = name.split("-")
        height, width = SIZES[resolution]["9:16"]
        assert NAMED_SHAPES[name].grid == (-(-(height // 8) // 2), -(-(width // 8) // 2))
        assert NAMED_SHAPES[name].frames == DURATIONS[duration] // 17 * 5


def test_the_size_is_in_the_name() -> None:
    with pytest.raises(ValueError, match=r"the size of 'opensora-1.2-480p-2s' is in its name"):
        models.shape("opensora-1.2-480p-2s", height=480)
    assert models.shape("opensora-1.2-480p-2s", batch=2, text_tokens=60).text_tokens == 60


def test_cache_bytes_are_forecast() -> None:
    """56 blocks, 3 outputs of 2 x 23850 tokens, in bfloat16; the token numbers of two steps, and a score a token."""
    plan = ToCa(3, 0.9, score="attention").plan(PUBLISHED, 30)
    features = 56 * 3 * 2 * 23850 * 1152 * 2
    assert plan.cache_bytes == features + 56 * 2 * (2 * 3565 * 8 + 23850 * 4)
    maps = 56 * 2 * 23850 * (20 + 20) * 2  # what the reference keeps beside the features
    assert plan.cache_bytes < features + maps


def test_a_local_folder_has_the_sizes_of_its_configuration(tmp_path) -> None:
    from tests.tiny_opensora import tiny_pipeline

    pipe = tiny_pipeline(text=False)
    pipe.save_pretrained(tmp_path / "small")
    shape = models.shape(str(tmp_path / "small"), height=64, width=96, text_tokens=7)
    assert shape.name == "small" and shape.grid == (4, 6) and shape.frames == 15 and shape.text_tokens == 7
    assert (shape.layers, shape.width, shape.mlp_width, shape.caption_width) == (2, 16, 64, 24)
    assert models.shape(str(tmp_path / "small")).grid == (15, 27)
    with pytest.raises(ValueError, match="must be at least 8 pixels, got 4x4"):
        models.shape(str(tmp_path / "small"), height=4)
    loaded, call = models.load(tmp_path / "small", device="cpu")
    assert type(loaded).__name__ == "OpenSoraPipeline" and call == {}


def test_the_official_configuration_has_the_published_shape() -> None:
    from dita.pipelines.opensora import OpenSoraTransformer3DModel

    with torch.device("meta"):
        config = dict(OpenSoraTransformer3DModel().config) | {"_class_name": "OpenSoraTransformer3DModel"}
    name = "opensora-1.2-480p-2s"
    assert models.shape_from_config(config, {}, name=name, height=480, width=854) == NAMED_SHAPES[name]
