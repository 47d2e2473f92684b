"""The endpoints for programs (`gradio_client`): each has a name, and takes and checks what the pages do."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from numpy.typing import NDArray

from dita.comparison import numbered_label
from dita.demo.compare_page import FAILED, session_of
from dita.demo.controls import controls
from dita.demo.request import Refused, as_it_came, checked, checked_method, checked_methods
from dita.demo.sampling import Made, Stopped, frames_per_second
from dita.demo.studio import Finished, ServerError, Studio
from dita.generation.files import mp4
from dita.methods import METHODS
from dita.methods.pages import summary_line

logger = logging.getLogger("dita.demo")
T = TypeVar("T")
CALLING = "/api"  # marks what a visitor's program asked for


def add(studio: Studio) -> None:
    """Adds the endpoints to the app that is being built: they have no place on its pages."""
    loaded = studio.loaded
    height, width = loaded.side
    with gr.Column(visible=False):
        prompt = gr.Textbox(loaded.examples(1)[0], label="prompt")
        method = gr.Textbox("toca:4:0.9", label="method", info="in short")
        seed = gr.Number(0, label="seed", precision=0)
        steps = gr.Number(loaded.steps, label="steps", precision=0)
        guidance = gr.Number(loaded.guidance, label="guidance")
        high, wide = gr.Number(height, label="height", precision=0), gr.Number(width, label="width", precision=0)
        for number in (seed, steps, guidance, high, wide):
            number.preprocess = as_it_came
        plain, fast = (
            gr.Video(label=label) if loaded.makes_videos else gr.Image(label=label, format="png")
            for label in ("plain", "accelerated")
        )
        numbers = gr.JSON(label="numbers")
        button = gr.Button()

    def compare(
        prompt: str,
        method: str,
        seed: float,
        steps: float,
        guidance: float,
        height: float,
        width: float,
        visitor: gr.Request,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Makes a picture with the plain pipeline and with a method: both pictures, and the numbers beside them."""
        request = checked(loaded, studio.limits, prompt, seed, steps, guidance, height, width)
        methods = checked_methods(loaded, studio.limits, [method])
        events = studio.compare(request, methods, session_of(visitor) + CALLING)
        finished = [event for event in events if isinstance(event, Finished)]
        pictures = [_picture(one.made.frames, fast) for one in finished]
        return pictures[0], pictures[1], _numbers(finished[1], finished[0])

    def generate(
        prompt: str,
        method: str,
        seed: float,
        steps: float,
        guidance: float,
        height: float,
        width: float,
        visitor: gr.Request,
    ) -> tuple[Any, dict[str, Any]]:
        """Makes a picture with one method alone, or plain: the picture, and its seconds and FLOPs."""
        request = checked(loaded, studio.limits, prompt, seed, steps, guidance, height, width)
        events = studio.generate(request, checked_method(loaded, method), session_of(visitor) + CALLING)
        made = next(event for event in events if isinstance(event, Made))
        return _picture(made.frames, fast), _of_one(made, *studio.flops(request, made))

    def health() -> dict[str, Any]:
        """Whether the server can make pictures, of which model, and how many requests it has."""
        return studio.health()

    def plan(method: str, steps: float) -> dict[str, Any]:
        """What a method would do and cost on this model: nothing is made."""
        count = checked(loaded, studio.limits, loaded.examples(1)[0], steps=steps).steps
        shape = studio.default_shape
        if shape is None:
            raise Refused("The model is still being loaded: please try again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return checked_method(loaded, method).on(loaded.device).plan(shape, count).as_json()

    def methods() -> dict[str, Any]:
        """Every method of this model: what it is, and its parameters with defaults and allowed values."""
        return {
            name: {
                "summary": summary_line(cls),
                "parameters": {
                    one.name: {
                        "default": one.default,
                        "optional": one.optional,
                        "choices": list(one.choices),
                        "low": one.low,
                        "high": one.high,
                        "meaning": one.meaning,
                    }
                    for one in controls(cls)
                },
            }
            for name, cls in METHODS.items()
            if loaded.family in cls.families
        }

    inputs = [prompt, method, seed, steps, guidance, high, wide]
    shared: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden"}
    button.click(_spoken(compare), inputs, [plain, fast, numbers], api_name="compare", **shared)
    button.click(_spoken(generate), inputs, [fast, numbers], api_name="generate", **shared)
    button.click(_spoken(health), None, numbers, api_name="health", queue=False, show_progress="hidden")
    button.click(_spoken(plan), [method, steps], numbers, api_name="plan", **shared)
    button.click(_spoken(methods), None, numbers, api_name="methods", **shared)


def _spoken(work: Callable[..., T]) -> Callable[..., T]:
    """`work`, whose errors reach the caller as messages."""

    @functools.wraps(work)
    def spoken(*args: Any, **kwargs: Any) -> T:
        try:
            return work(*args, **kwargs)
        except (Refused, ServerError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Stopped:
            raise gr.Error("Stopped.", print_exception=False) from None
        except Exception:
            logger.exception("an endpoint failed")
            raise gr.Error(FAILED, print_exception=False) from None

    return spoken


def _picture(frames: NDArray[np.uint8], component: Any) -> Any:
    """What the component takes: an array of a picture, the path of a video in Gradio's own folder."""
    if isinstance(component, gr.Image):
        return frames[0]
    data = mp4(frames, frames_per_second(len(frames)))
    return str(Path(save_bytes_to_cache(data, "clip.mp4", component.GRADIO_CACHE)))


def _of_one(made: Made, flops: float, plain_flops: float) -> dict[str, Any]:
    """JSON-ready data of one picture."""
    return {
        "method": made.method.as_json(),
        "label": numbered_label(made.method),
        "seconds": made.seconds,
        "flops": flops,
        "plain_flops": plain_flops,
        "flops_ratio": plain_flops / flops,
        "broken": made.broken,
    }


def _numbers(one: Finished, plain: Finished) -> dict[str, Any]:
    """JSON-ready data of one comparison."""
    scores = one.scores
    return {
        **_of_one(one.made, one.flops, one.plain_flops),
        "plain_seconds": plain.made.seconds,
        "speedup": one.speedup,
        "psnr": None if scores.psnr is None or math.isinf(scores.psnr) else scores.psnr,
        "identical": scores.psnr is not None and math.isinf(scores.psnr),
        "ssim": scores.ssim,
        "judge": None if scores.verdict is None else scores.verdict.as_dict(),
        "plain_judge": None if plain.scores.verdict is None else plain.scores.verdict.as_dict(),
        "clip": scores.clip,
    }
