"""A whole tuning, on a tiny random model: what is tried, chosen, measured and written, and that it goes on."""

from __future__ import annotations

import json
import math
import types

import numpy as np
import pytest
from diffusers import EulerAncestralDiscreteScheduler
from rich.console import Console

import dita
from dita.methods import FORA, FewerSteps, Plain, WholeCall, read_method
from dita.shapes import named_shape
from dita.tuning import candidates, job
from dita.tuning.corrections import changed, directions, fitted, line_rows
from dita.tuning.journal import TRIALS
from dita.tuning.observing import observed
from dita.tuning.results import from_json
from dita.tuning.search import Costs
from dita.tuning.trials import Trial, squared_errors, steadied, steady
from tests import tiny_flux, tiny_pixart

QUIET = Console(file=open("/dev/null", "w"))  # noqa: SIM115


def pipeline():
    """A tiny FLUX that is asked by prompts such as "prompt 3"."""
    pipe = tiny_flux.tiny_pipeline()

    def encode_prompt(self, prompt=None, prompt_embeds=None, pooled_prompt_embeds=None, **_):
        import torch

        made = [tiny_flux.prompts(1, first=int(text.split()[-1]) % 8) for text in prompt]
        embeds = torch.cat([one["prompt_embeds"] for one in made])
        pooled = torch.cat([one["pooled_prompt_embeds"] for one in made])
        return embeds, pooled, torch.zeros(embeds.shape[1], 3)

    pipe.encode_prompt = types.MethodType(encode_prompt, pipe)
    return pipe


CALL = {"height": 32, "width": 32}
PROMPTS = [f"prompt {i}" for i in range(6)]


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model takes no time to speak of, whatever is skipped: seconds are counted in evaluations."""
    stock = job.Model.sample

    def sample(self, method, prompts, *, steps=None):
        made = stock(self, method, prompts, steps=steps)
        ran = steps or self.steps
        plan = None if made.shape is None else method.plan(made.shape, ran)
        full = ran if plan is None else plan.flops() / plan.plain_flops * plan.requested_steps
        return type(made)(made.latents, float(full) * len(prompts), made.shape)  # no pace

    monkeypatch.setattr(job.Model, "sample", sample)
    monkeypatch.setattr(job, "TOLERANCE", 0.0)


def tuned(out, **changes):
    arguments = {"out": out, "speedup": 2.0, "minutes": 0.08, "steps": 8, "batch": 2, "call": CALL, "console": QUIET}
    return job.tune(pipeline(), PROMPTS, **(arguments | changes))


@pytest.mark.slow
def test_a_tuning_writes_a_method_that_runs_and_a_report_that_reads_back(tmp_path, no_time) -> None:
    found = tuned(tmp_path / "tuned")
    method, made_for = read_method(tmp_path / "tuned")
    assert method.as_json() == found.method and made_for.steps == 8 and made_for.height == 32
    written = from_json(json.loads((tmp_path / "tuned" / "results.json").read_text()))
    assert json.dumps(written.as_json()) == json.dumps(found.as_json())
    assert found.answer in (tmp_path / "tuned" / "report.html").read_text() or found.chosen
    assert sum(found.sets.values()) == 6 and {one.group for one in found.candidates} >= {"fewer steps", "sampler"}
    roles = {one.role for one in found.reported}
    assert {"plain", "tuned"} <= roles
    pipe = dita.enable(pipeline(), tmp_path / "tuned")
    pipe(prompt=["prompt 1"], num_inference_steps=8, output_type="latent", **CALL)
    again = tuned(tmp_path / "tuned")
    lines = (tmp_path / "tuned" / TRIALS).read_text().splitlines()
    assert len(lines) == len({json.dumps(json.loads(line)["method"]) for line in lines}), "no method is tried twice"
    assert len(again.candidates) >= len(found.candidates)
    with pytest.raises(FileExistsError, match="another steps"):
        tuned(tmp_path / "tuned", steps=9)


@pytest.mark.slow
def test_a_tuning_goes_on_where_fitted_weights_were_the_best(tmp_path, no_time) -> None:
    tuned(tmp_path / "tuned", minutes=0.02)
    best = WholeCall(predictor="fitted", full_steps=(0, 1, 4, 7), weights=[[-0.5, 1.5]] * 4)
    line = {"method": best.as_json(), "seconds": 1e-6, "call": None, "errors": {"plain": [1e-12] * 2}}
    with (tmp_path / "tuned" / TRIALS).open("a") as file:
        file.write(json.dumps(line) + "\n")
    found = tuned(tmp_path / "tuned", minutes=0.1)
    assert any(one.method["method"] == "call" and not one.method.get("weights") for one in found.candidates)
    assert any(one.method.get("weights") for one in found.candidates)


@pytest.mark.slow
def test_both_references_are_the_mean_of_the_squared_errors_to_them(tmp_path, no_time) -> None:
    found = tuned(tmp_path / "tuned", reference="both", minutes=0.02)
    assert all(set(one.decibels) == {"plain", "converged", "both"} for one in found.candidates)
    for one in found.reported:
        names = {"converged", "both"} if one.role == "plain" else {"plain", "converged", "both"}
        assert set(one.psnr) == names
        values = [one.psnr[name][0] for name in sorted(names - {"both"})]
        assert one.psnr["both"][0] <= min(values) + 10 * math.log10(2) + 1e-6
    assert "from the plain and the converged pictures" in found.answer


def test_errors_to_both_are_added_as_squares() -> None:
    assert math.isclose(job._of_both(30.0, 30.0), 30.0)
    assert math.isclose(job._of_both(math.inf, 30.0), 30.0 + 10 * math.log10(2))
    assert job._of_both(math.inf, math.inf) == math.inf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speedup": 1.0}, "speedup must be a number above 1"),
        ({"speedup": 2.0, "psnr": 30.0}, "give one goal, got speedup and psnr"),
        ({"speedup": None, "seconds": -1.0}, "seconds must be a number above 0"),
        ({"reference": "plane"}, "unknown reference 'plane'.*plain"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"steps": 1}, "steps must be a whole number, at least 2"),
        ({"batch": 0}, "batch must be a whole number, at least 1"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_written(tmp_path, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        tuned(tmp_path / "tuned", **changes)
    assert not (tmp_path / "tuned").exists()


def test_too_few_prompts_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        job.tune(pipeline(), ["prompt 1"], out=tmp_path / "tuned")


def test_a_sampler_that_draws_noise_is_refused_with_the_reason(tmp_path) -> None:
    pipe = tiny_pixart.tiny_pipeline()
    pipe.scheduler = EulerAncestralDiscreteScheduler()
    with pytest.raises(ValueError, match=r"draws noise in each step: two runs differ"):
        job.tune(pipe, PROMPTS, out=tmp_path / "tuned")


def test_a_folder_with_other_files_is_refused(tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="holds other files and no tuning"):
        tuned(tmp_path)


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40, 200])
def test_no_prompt_with_its_noise_is_in_two_sets(count: int) -> None:
    sets, note = job.split([f"p{i}" for i in range(count)], seed=3)
    pairs = [pair for one in sets for pair in zip(one.texts, one.seeds, strict=True)]
    assert len(pairs) == len(set(pairs)) and all(len(one) for one in sets)
    if count > 2:
        assert len({text for text, _ in pairs}) == count
    assert (note is None) == (count >= 12)


# ------------------------------------------------------------------------------------------------ pieces


def test_a_method_in_the_file_says_for_how_many_steps_its_full_ones_are() -> None:
    told = job._of_steps(WholeCall(steps_factor=2, full_steps=(0, 4, 50)), 28)
    assert told == WholeCall(steps_factor=2, full_steps=(0, 4, 50), full_of=28)
    assert job._of_steps(FORA(3), 28) == FORA(3)
    shape = named_shape("flux-dev")
    rows = [[1.0], *[[-0.5, 1.5]] * 23]
    fitted_method = job._of_steps(WholeCall(predictor="fitted", full_steps=(0, 2, 9, 20), weights=rows), 28)
    assert fitted_method.plan(shape, 28).full_steps == (0, 2, 9, 20)
    finer = WholeCall(steps_factor=3, full_steps=(0, 30, 83), full_of=28)
    assert finer.plan(shape, 28).full_steps == (0, 30, 83)


def test_errors_are_averaged_in_decibels_without_the_worst_third() -> None:
    """A picture that goes another way says nothing of how near the others are; broken numbers are said."""
    trial = Trial(Plain(), 1.0, {"plain": (1e-4, 1.0, 1e-3)})
    assert -10 * math.log10(trial.error("plain")) == pytest.approx((40 + 30) / 2)
    assert steady((5.0, 1.0, 4.0, 3.0)) == [1, 2, 3] and steady((2.0,)) == [0]
    assert Trial(Plain(), 1.0, {"plain": (1e-4, 1e-4, math.inf)}).error("plain") == math.inf
    broken = squared_errors(np.array([[np.nan], [1.0]]), np.array([[0.0], [3.0]]))
    assert broken == (math.inf, 4.0)


def test_seconds_leave_out_what_disturbs_single_calls() -> None:
    assert steadied(10.0, {"full": [1.0, 1.0, 4.0], "reuse": [0.5]}) == pytest.approx(7.0)
    trial = Trial(Plain(), 6.0, {}, call=2.0)
    assert trial.paced(1.0).seconds == 3.0 and trial.paced(None) is trial


def test_costs_give_the_most_evaluations_for_seconds() -> None:
    costs = Costs(fixed=1.0, step=2.0, cached=0.5)
    assert costs.seconds(4, 10) == 1 + 8 + 3
    assert costs.evaluations(12.0, 10) == 4 and costs.evaluations(11.9, 10) == 3
    assert costs.evaluations(0.5, 10) == 0 and costs.evaluations(1e9, 10) == 10


def test_what_the_scheduler_gets_is_observed_and_its_sensitivities_are_its_step_sizes() -> None:
    pipe = tiny_flux.tiny_pipeline()
    with observed(pipe) as seen:
        plain = tiny_flux.call(pipe, steps=6)
    assert seen.steps == 6 and not {"step", "set_timesteps"} & set(vars(pipe.scheduler))
    sigmas = pipe.scheduler.sigmas.numpy()
    np.testing.assert_allclose(seen.sensitivities("velocity"), np.diff(sigmas), atol=1e-6)
    total = seen.samples[0] + sum(c * out for c, out in zip(np.diff(sigmas), seen.outputs, strict=True))
    np.testing.assert_allclose(total.numpy(), plain.numpy(), atol=1e-4)
    np.testing.assert_allclose(
        seen.gram("velocity")[1, 2], float((seen.outputs[1] * seen.outputs[2]).mean()), rtol=1e-5
    )


@pytest.mark.parametrize("tiny", [tiny_flux, tiny_pixart])
def test_what_was_observed_stays_after_runs_of_other_steps(tiny) -> None:
    pipe = tiny.tiny_pipeline()
    with observed(pipe) as seen:
        tiny.call(pipe, steps=6)
    found = [seen.coordinates("noise"), seen.gram("velocity").tolist(), seen.sensitivities("velocity").tolist()]
    tiny.call(pipe, steps=3)
    again = [seen.coordinates("noise"), seen.gram("velocity").tolist(), seen.sensitivities("velocity").tolist()]
    assert len(found[0]) == 6 and again == found


def test_fixed_methods_reach_the_ratio_with_the_shortest_cycle() -> None:
    shape = named_shape("flux-dev")
    found = candidates.fixed_methods(shape, 28, 2.5)
    assert FORA(3) in found and FORA(4) not in found
    assert all(method.plan(shape, 28).flops_ratio() >= 0.95 * 2.5 for method in found)


def test_groups_of_candidates() -> None:
    assert candidates.group_of(FewerSteps(0.5)) == "fewer steps"
    assert candidates.group_of(FewerSteps(0.5, "unipc")) == "sampler"
    assert candidates.group_of(FORA(3)) == "published"
    assert candidates.group_of(FORA(full_steps=(0, 2))) == "chosen steps"
    assert candidates.group_of(WholeCall(3)) == "whole calls"
    assert candidates.group_of(dita.ToCa(full_steps=(0, 2))) == "tokens"


def test_fewer_steps_have_short_fractions() -> None:
    for count in range(1, 28):
        method = candidates.fewer_steps("flux", count, 28)[0]
        assert method.run_steps(28) == count and len(str(method.fraction)) <= 5


def test_fitted_weights_find_what_the_reference_was_made_with() -> None:
    """A linear run whose weights are known: one step of Gauss and Newton finds them."""
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(8, 3, 50))
    full, along = (0, 2, 5), tuple(float(8 - i) for i in range(8))
    changes = directions(full, along)
    straight = line_rows(full, along)

    def run(rows) -> np.ndarray:
        total, rows_left, known = np.zeros((3, 50)), list(rows), []
        for step in range(8):
            if step in full:
                known.append(outputs[step])
                total += outputs[step]
            else:
                row = rows_left.pop(0)
                total += sum(w * z for w, z in zip(row, known[-len(row) :], strict=True))
        return total.astype(np.float32)

    wanted = changed(straight, changes, [0.3, -0.2, 0.1][: len(changes)])
    found = fitted(straight, changes, run, run(wanted), ridge=1e-9)
    np.testing.assert_allclose(run(found), run(wanted), atol=1e-3)
    assert np.abs(run(straight) - run(wanted)).max() > 0.1
