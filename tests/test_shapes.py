import dataclasses

import pytest

from dita.shapes import NAMED_SHAPES, FluxShape, Kind, Site, named_shape, sampled_queries

# 2 text and 3 image tokens of width 4: every number below can be worked by hand.
SMALL = FluxShape(
    name="small",
    double_layers=2,
    single_layers=1,
    width=4,
    mlp_width=16,
    text_tokens=2,
    image_tokens=3,
    grid=None,
    in_channels=8,
    text_width=6,
    pooled_width=5,
)


def test_sites_come_in_the_order_in_which_a_forward_reaches_them():
    assert [str(site) for site in SMALL.sites()] == [
        "double.0.attn",
        "double.0.mlp",
        "double.0.text_mlp",
        "double.1.attn",
        "double.1.mlp",
        "double.1.text_mlp",
        "single.0.single",
    ]


def test_image_and_text_are_apart_in_double_blocks_and_together_elsewhere():
    assert {m: SMALL.tokens(m) for m in ("attn", "mlp", "text_mlp", "single")} == {
        "attn": 5,
        "mlp": 3,
        "text_mlp": 2,
        "single": 5,
    }


def test_tokens_can_be_selected_in_mlps_but_not_in_self_attention():
    assert [m for m in ("attn", "mlp", "text_mlp", "single") if SMALL.selects(m)] == ["mlp", "text_mlp", "single"]


@pytest.mark.parametrize(
    ("site", "kind", "tokens", "flops"),
    [
        # q, k, v and out: 4 linears of 2*4*4 a token; scores and values: 2 products of 2*5*4 a token
        (Site("double", 0, "attn"), Kind.FULL, 5, 5 * 4 * 32 + 5 * 2 * 40),
        (Site("double", 0, "attn"), Kind.REUSE, 0, 0),
        # in and out: 2*4*16 each a token
        (Site("double", 0, "mlp"), Kind.FULL, 3, 3 * 256),
        (Site("double", 0, "mlp"), Kind.PARTIAL, 1, 256),
        (Site("double", 0, "mlp"), Kind.REUSE, 0, 0),
        (Site("double", 0, "text_mlp"), Kind.PARTIAL, 2, 2 * 256),
        # mlp in 2*4*16 and out 2*(4+16)*4 a token; full adds q, k, v and the two products
        (Site("single", 0, "single"), Kind.FULL, 5, 5 * (128 + 160) + 5 * 3 * 32 + 5 * 2 * 40),
        (Site("single", 0, "single"), Kind.PARTIAL, 2, 2 * (128 + 160)),
        (Site("single", 0, "single"), Kind.REUSE, 0, 0),
    ],
)
def test_flops_of_a_site_are_those_worked_by_hand(site, kind, tokens, flops):
    assert SMALL.flops(site, kind, tokens) == flops


def test_pre_projection_accounting_adds_the_output_projection_to_reused_attention():
    attn = Site("double", 0, "attn")
    assert SMALL.flops(attn, Kind.REUSE, 0, "pre-projection") == 5 * 2 * 4 * 4
    assert SMALL.flops(attn, Kind.FULL, 5, "pre-projection") == SMALL.flops(attn, Kind.FULL, 5)


def test_flops_outside_the_sites_are_those_worked_by_hand():
    modulation = 2 * 2 * (2 * 4 * 24) + 1 * (2 * 4 * 12) + 2 * 4 * 8
    timestep = guidance = 2 * 256 * 4 + 2 * 4 * 4
    pooled = 2 * 5 * 4 + 2 * 4 * 4
    text_in, image_in, image_out = 2 * (2 * 6 * 4), 3 * (2 * 8 * 4), 3 * (2 * 4 * 8)
    assert SMALL.step_flops() == modulation + timestep + guidance + pooled + text_in + image_in + image_out


def test_a_model_without_guidance_has_one_embedder_less():
    without = dataclasses.replace(SMALL, guidance=False)
    assert SMALL.step_flops() - without.step_flops() == 2 * 256 * 4 + 2 * 4 * 4


def test_flops_grow_with_the_batch_and_with_the_calls_of_a_step():
    site = Site("double", 0, "mlp")
    twice = dataclasses.replace(SMALL, batch=3, branches=2)
    assert twice.flops(site, Kind.PARTIAL, 1) == 6 * SMALL.flops(site, Kind.PARTIAL, 1)
    assert twice.step_flops() == 6 * SMALL.step_flops()


def test_flops_of_flux_dev_match_the_published_step():
    shape = named_shape("flux-dev")
    full = sum(shape.flops(site, Kind.FULL, shape.tokens(site.module)) for site in shape.sites())
    assert full + shape.step_flops() == pytest.approx(74.385e12, rel=1e-3)
    assert shape.step_flops() == pytest.approx(0.0226e12, rel=1e-2)


def test_exact_attention_scores_cost_a_second_pass_over_queries_and_keys():
    # spec/methods.md 11.4: 0.13 TFLOP a block, 7.4 a step; 256 sampled queries: about 0.4 a step
    shape = named_shape("flux-dev")
    per_step = {
        score: sum(shape.score_flops(site, score) for site in shape.sites())
        for score in ("attention", "attention-sampled", "k-norm", "random", "v-norm")
    }
    assert per_step["attention"] == pytest.approx(7.4e12, rel=0.01)
    assert per_step["attention-sampled"] == pytest.approx(0.206e12, rel=0.01)
    assert per_step["k-norm"] == per_step["random"] == 0
    assert per_step["v-norm"] == 57 * 2 * 4608 * 3072**2


@pytest.mark.parametrize(
    ("tokens", "queries"), [(5, 5), (32, 32), (128, 32), (1152, 36), (3200, 100), (4608, 128), (17000, 128)]
)
def test_a_thirty_second_of_the_queries_is_sampled_within_bounds(tokens: int, queries: int):
    assert sampled_queries(tokens) == queries


def test_sampled_queries_are_never_more_than_there_are():
    site = Site("single", 0, "single")
    assert SMALL.score_flops(site, "attention-sampled") == SMALL.score_flops(site, "attention") == 2 * 5 * 5 * 4


@pytest.mark.parametrize(
    ("site", "kinds", "tensors", "tokens"),
    [
        (Site("double", 0, "attn"), {Kind.FULL, Kind.REUSE}, 1, 5),
        (Site("double", 0, "mlp"), {Kind.FULL, Kind.PARTIAL}, 1, 3),
        (Site("double", 0, "text_mlp"), {Kind.FULL, Kind.PARTIAL, Kind.REUSE}, 1, 2),
        (Site("single", 0, "single"), {Kind.FULL, Kind.REUSE}, 1, 5),
        (Site("single", 0, "single"), {Kind.FULL, Kind.PARTIAL}, 2, 5),
        (Site("single", 0, "single"), {Kind.FULL}, 0, 5),
    ],
)
def test_a_site_stores_its_output_and_a_partial_single_block_its_attention_too(site, kinds, tensors, tokens):
    assert SMALL.feature_bytes(site, frozenset(kinds)) == tensors * tokens * 4 * 2


def test_a_named_shape_follows_the_picture_size():
    shape = named_shape("flux-dev", height=512, width=768, batch=2)
    assert (shape.grid, shape.image_tokens, shape.batch) == ((32, 48), 1536, 2)


def test_one_side_given_makes_a_square():
    assert named_shape("flux-dev", height=512).grid == named_shape("flux-dev", width=512).grid == (32, 32)


def test_native_size_is_1024_pixels_square():
    assert named_shape("flux-dev", height=1024, width=1024) == named_shape("flux-dev")


@pytest.mark.parametrize("size", [{"height": 500}, {"height": 0}, {"width": -16}, {"height": 512, "width": 8}])
def test_a_size_that_is_no_multiple_of_16_is_refused_with_its_value(size):
    with pytest.raises(ValueError, match=rf"multiples of 16 pixels, got .*{next(reversed(size.values()))}"):
        named_shape("flux-dev", **size)


def test_an_unknown_shape_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown model shape 'sdxl'") as error:
        named_shape("sdxl")
    assert all(name in str(error.value) for name in NAMED_SHAPES)


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        named_shape("flux-dev", batch=0)
