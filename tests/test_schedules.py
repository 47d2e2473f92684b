import pytest
from hypothesis import given
from hypothesis import strategies as st

from dita.schedules import RATIO_SCHEDULES, fresh_share, fresh_tokens, layer_position


def share(schedule, fresh_ratio=0.1, *, stack="double", position=0.0, step=0, steps=50, cycle=4):
    module = {"double": "mlp", "single": "single"}[stack]
    return fresh_share(
        schedule, fresh_ratio, family="flux", module=module, position=position, step=step, steps=steps, cycle=cycle
    )


def test_token_counts_are_computed_in_single_precision_as_the_reference_does():
    value = share("toca", 0.25, stack="single", position=layer_position("flux", "single", 33, 38, strict=True))
    assert int(value * 4608) == 511
    assert fresh_tokens(value, 4608) == 512


def test_token_counts_are_cut_off_not_rounded():
    assert fresh_tokens(0.1, 19) == 1
    assert fresh_tokens(0.1, 9) == 0


@pytest.mark.parametrize(("value", "tokens"), [(-0.3, 0), (0.0, 0), (1.0, 64), (7.5, 64)])
def test_a_share_outside_0_to_1_computes_no_token_or_all(value, tokens):
    assert fresh_tokens(value, 64) == tokens


@given(st.floats(-2, 3), st.integers(0, 10**5))
def test_token_counts_stay_within_the_tokens_there_are(value, tokens):
    assert 0 <= fresh_tokens(value, tokens) <= tokens


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**5))
def test_a_larger_share_never_computes_fewer_tokens(one, other, tokens):
    low, high = sorted((one, other))
    assert fresh_tokens(low, tokens) <= fresh_tokens(high, tokens)


@pytest.mark.parametrize(
    ("schedule", "where", "expected"),
    [
        ("constant", {}, 0.1),
        ("linear", {"step": 0}, 0.19),
        ("linear", {"step": 25}, 0.1),
        ("exp", {"step": 0}, 0.1),
        ("exp", {"step": 50}, 0.09),
        ("linear-mode", {"step": 25}, 0.1 * (1 + 0.1 * (1 / 4 - 0.5))),
        ("layerwise", {"position": 0.0}, 0.19),
        ("layerwise", {"position": 1.0}, 0.01),
        ("linear-layerwise", {"step": 0, "position": 0.0}, 0.1 * 1.6 * 1.9 * 1.6),
        ("linear-layerwise", {"step": 25, "position": 1.0}, 0.1 * 0.4 * 1.0 * 1.6),
        ("toca", {"stack": "double", "position": 0.5}, 0.1 * 1.0 * 0.4),
        ("toca", {"stack": "single", "position": 0.5}, 0.1 * 1.0 * 1.6),
    ],
)
def test_each_schedule_follows_its_formula(schedule, where, expected):
    assert share(schedule, **where) == pytest.approx(expected, rel=1e-12)


@given(st.sampled_from(RATIO_SCHEDULES), st.floats(0, 1), st.integers(0, 37), st.integers(0, 49))
def test_every_schedule_is_proportional_to_the_fresh_ratio(schedule, ratio, layer, step):
    where = {"stack": "single", "position": layer / 27, "step": step}
    assert share(schedule, ratio, **where) == pytest.approx(ratio * share(schedule, 1.0, **where), abs=1e-12)


@pytest.mark.parametrize(("stack", "depth"), [("double", 19), ("single", 38)])
def test_the_depths_of_flux_dev_have_the_divisor_27_strict_or_not(stack, depth):
    for strict in (True, False):
        positions = [layer_position("flux", stack, layer, depth, strict) for layer in range(depth)]
        assert positions == [layer / 27 for layer in range(depth)]


@given(st.sampled_from([("double", 18 / 27), ("single", 37 / 27)]), st.integers(2, 100))
def test_another_depth_has_the_profile_of_flux_dev_stretched_over_it(stack_and_end, depth):
    stack, end = stack_and_end
    assert layer_position("flux", stack, 0, depth, strict=False) == 0
    assert layer_position("flux", stack, depth - 1, depth, strict=False) == pytest.approx(end)


def test_strict_keeps_the_divisor_27_at_any_depth():
    assert layer_position("flux", "double", 3, 4, strict=True) == 3 / 27


def test_a_stack_of_one_layer_is_at_the_start_of_the_profile():
    assert layer_position("flux", "single", 0, 1, strict=False) == 0
