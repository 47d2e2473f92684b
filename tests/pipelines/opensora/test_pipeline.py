"""The pipeline end to end on a tiny random Open-Sora."""

from __future__ import annotations

import json
import subprocess
import sys

import accelerate
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.utils import export_to_video

import dita
from dita.pipelines.opensora import OpenSoraPipeline, PromptTruncatedWarning, flow_scheduler
from dita.pipelines.opensora.sizes import VideoFormat
from tests.tiny_opensora import CAPTION_CHANNELS, clip, tiny_autoencoder, tiny_pipeline, tiny_transformer


@pytest.fixture(scope="module")
def pipe() -> OpenSoraPipeline:
    return tiny_pipeline()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int = 64, width: int = 64) -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def test_sixteen_frames_of_an_official_size(tmp_path) -> None:
    pipe = tiny_pipeline(sizes=None)
    frames = clip(pipe, "A red circle", resolution="144p", num_frames=16, num_inference_steps=2, output_type="np")
    assert frames.shape == (1, 16, 144, 256, 3)
    assert np.isfinite(frames).all() and frames.std() > 0
    path = export_to_video(list(frames[0]), str(tmp_path / "video.mp4"), fps=24)
    assert (tmp_path / "video.mp4").stat().st_size > 1000 and path.endswith("video.mp4")


def test_nominal_sizes_are_cut_to_whole_latent_cells() -> None:
    frames = clip(tiny_pipeline(sizes=None), num_frames=1, num_inference_steps=1, output_type="pt")
    assert frames.shape == (1, 1, 3, 240, 424)  # of 240x426


def test_output_types_agree(pipe) -> None:
    images = clip(pipe, output_type="pil")
    array = clip(pipe, output_type="np")
    tensor = clip(pipe, output_type="pt")
    assert len(images) == 1 and len(images[0]) == 4 and images[0][0].size == (64, 64)
    assert array.shape == (1, 4, 64, 64, 3) and tensor.shape == (1, 4, 3, 64, 64)
    np.testing.assert_allclose(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    np.testing.assert_allclose(np.asarray(images[0][0]), array[0, 0] * 255, atol=0.51)
    assert array.min() >= 0 and array.max() <= 1
    latents = clip(pipe, output_type="latent")
    decoded = pipe.video_processor.postprocess_video(pipe.decode_latents(latents, 4), output_type="np")
    np.testing.assert_array_equal(decoded, array)


def test_a_tuple_is_returned_when_asked_for(pipe) -> None:
    frames = pipe(
        "a dog", num_frames=1, num_inference_steps=1, aesthetic_score=None, output_type="latent", return_dict=False
    )
    assert isinstance(frames, tuple) and frames[0].shape == (1, 4, 1, 8, 8)


def test_the_generator_decides(pipe) -> None:
    assert torch.equal(clip(pipe), clip(pipe))
    assert not torch.equal(clip(pipe), clip(pipe, generator=seeded(8)))


def test_given_noise_is_used(pipe) -> None:
    noise = torch.randn(1, 4, 1, 8, 8, generator=seeded(7))
    assert torch.equal(clip(pipe, latents=noise), clip(pipe))


def test_a_batch_gives_what_each_prompt_gives_alone(pipe) -> None:
    prompts = ["a red circle", "a small blue square near a circle"]
    together = clip(pipe, prompts, generator=[seeded(1), seeded(2)])
    alone = [clip(pipe, prompt, generator=seeded(seed)) for prompt, seed in zip(prompts, (1, 2), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_several_videos_of_a_prompt(pipe) -> None:
    several = clip(pipe, num_videos_per_prompt=2, generator=[seeded(1), seeded(2)])
    alone = [clip(pipe, generator=seeded(seed)) for seed in (1, 2)]
    torch.testing.assert_close(several, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_embeddings_stand_for_the_prompt(pipe) -> None:
    prompts = ["a red circle", "a very small blue square"]
    embeds, mask = pipe.encode_prompt(prompts, aesthetic_score=None)
    assert mask is not None and mask.dtype == torch.bool and embeds.shape[:2] == mask.shape
    ours = pipe.to(torch.float32)(
        prompt_embeds=embeds,
        prompt_attention_mask=mask,
        num_frames=4,
        num_inference_steps=3,
        output_type="latent",
        generator=seeded(7),
    ).frames
    assert torch.equal(ours, clip(pipe, prompts))


def test_text_is_cut_to_the_longest_prompt(pipe) -> None:
    embeds, mask = pipe.encode_prompt("a red circle", aesthetic_score=None)
    tokens = len(pipe.tokenizer("a red circle").input_ids)
    assert embeds.shape == (1, tokens, CAPTION_CHANNELS) and mask is None


def test_guidance_takes_two_rows_and_none_takes_one(pipe) -> None:
    rows = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.append(kwargs["hidden_states"].shape[0]), with_kwargs=True
    )
    try:
        plain = clip(pipe, guidance_scale=1.0)
        guided = clip(pipe, guidance_scale=7.0)
    finally:
        hook.remove()
    assert rows == [1, 1, 1, 2, 2, 2] and not torch.equal(plain, guided)


def test_the_null_prompt_is_the_learned_caption(pipe) -> None:
    embeds, mask = pipe.encode_prompt(["a red circle", "a very small blue square"], aesthetic_score=None)
    pipe._guidance_scale = 7.0
    text, text_mask = pipe._with_null_prompt(embeds, mask)
    assert torch.equal(text[2], pipe.transformer.null_caption[: embeds.shape[1]])
    assert torch.equal(text_mask[2:], mask), "it is masked as the prompts are"


def test_images_are_told_their_frame_rate_and_the_nominal_size() -> None:
    pipe = tiny_pipeline(sizes=None)
    given = []
    pipe.transformer.register_forward_pre_hook(lambda _m, _a, kwargs: given.append(kwargs), with_kwargs=True)
    clip(pipe, resolution="144p", num_frames=1, num_inference_steps=1)
    clip(pipe, resolution="144p", aspect_ratio="3:8", num_frames=4, num_inference_steps=1, fps=12)
    assert [(kw["fps"], kw["height"], kw["width"]) for kw in given] == [(120, 144, 256), (12, 117, 312)]


def test_callbacks_see_and_change_the_latents(pipe) -> None:
    seen = []

    def look(_pipe, step, time, tensors):
        seen.append((step, round(time.item()), sorted(tensors), _pipe.num_timesteps))
        return {"latents": tensors["latents"] * 0} if step == 2 else {}

    frames = clip(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])
    assert (frames == 0).all()
    assert [step for step, *_ in seen] == [0, 1, 2] and seen[0][1:] == (1000, ["latents", "prompt_embeds"], 3)
    assert pipe.current_timestep is None and pipe.guidance_scale == 7.0


def test_a_callback_can_change_the_prompt(pipe) -> None:
    other, _ = pipe.encode_prompt("a blue square", aesthetic_score=None)

    def swap(_pipe, step, _time, _tensors):
        return {"prompt_embeds": other} if step == 0 else {}

    changed = clip(pipe, callback_on_step_end=swap)
    assert not torch.equal(changed, clip(pipe)) and not torch.equal(changed, clip(pipe, "a blue square"))


def test_a_callback_can_stop(pipe) -> None:
    steps = []

    def stop(_pipe, step, _time, tensors):
        steps.append(step)
        _pipe._interrupt = True
        return tensors

    clip(pipe, callback_on_step_end=stop)
    assert steps == [0]
    steps.clear()
    assert torch.isfinite(clip(pipe)).all() and steps == []


def test_an_image_stands_at_the_start(pipe) -> None:
    size = dict(num_frames=51, num_inference_steps=2)
    latents = clip(pipe, image=picture(), **size)
    assert torch.equal(latents, clip(pipe, references=[picture()], mask_strategy="0", **size))
    video = VideoFormat(64, 64, 51, 24)
    generator = seeded(7)
    tensor = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    encoded = pipe._encode(tensor, generator)
    torch.testing.assert_close(latents[:, :, :1], encoded, atol=1e-4, rtol=1e-4)
    noise = pipe.prepare_latents(1, video, generator, torch.device("cpu"))
    assert not torch.equal(latents[:, :, 1:], noise[:, :, 1:])


def test_references_can_stand_anywhere_and_be_edited(pipe) -> None:
    video = [picture()] * 17
    size = dict(num_frames=51, num_inference_steps=2)
    kept = clip(pipe, references=[video, picture()], mask_strategy="0,0,0,5,5,0;0,1,0,-1", align=None, **size)
    masks = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _m, _a, kwargs: masks.append(kwargs["frame_mask"]), with_kwargs=True
    )
    try:
        edited = clip(pipe, references=[video, picture()], mask_strategy="0,0,0,5,5,0.99;0,1,0,-1", align=None, **size)
    finally:
        hook.remove()
    assert [mask[0].sum().item() for mask in masks] == [9, 14]
    assert not torch.equal(kept[:, :, 5:10], edited[:, :, 5:10])
    assert torch.equal(kept[:, :, -1], edited[:, :, -1])


def test_references_of_one_prompt_leave_the_other_alone(pipe) -> None:
    prompts = ["a red circle", "a red circle"]
    arguments = dict(num_frames=17, num_inference_steps=2)
    mixed = clip(
        pipe,
        prompts,
        references=[[picture()], []],
        mask_strategy=["0", ""],
        generator=[seeded(1), seeded(2)],
        **arguments,
    )
    torch.testing.assert_close(mixed[1:], clip(pipe, generator=seeded(2), **arguments), rtol=1e-4, atol=1e-4)


def test_long_videos_are_made_by_loops(pipe) -> None:
    prompts = []
    hook = pipe.text_encoder.register_forward_pre_hook(lambda _m, args: prompts.append(args[0]))
    try:
        frames = clip(
            pipe,
            "|0|a red circle|1|a blue square",
            loop=3,
            num_frames=34,
            num_inference_steps=1,
            output_type="pt",
        )
    finally:
        hook.remove()
    assert frames.shape == (1, 34 + 17 + 17, 3, 64, 64)
    assert not torch.equal(prompts[0], prompts[1]) and torch.equal(prompts[1], prompts[2])


def test_a_later_clip_keeps_the_end_of_the_one_before(pipe) -> None:
    masks = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _m, _a, kwargs: masks.append(kwargs["frame_mask"]), with_kwargs=True
    )
    try:
        clip(pipe, loop=2, num_frames=34, num_inference_steps=1, output_type="pt")
    finally:
        hook.remove()
    assert masks[0] is None
    assert masks[1][0].tolist() == [False] * 5 + [True] * 5


def test_a_long_prompt_says_what_is_left_out(pipe) -> None:
    with pytest.warns(PromptTruncatedWarning, match=r"has 1\d tokens, and the model reads 12; left out: '.*triangle"):
        clip(pipe, "a red circle " * 4 + "a triangle", num_inference_steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_frames=50), "nearest are 34 and 51"),
        (dict(height=60, width=64), r"60x64 is not in the size table; the nearest are 64x64 \(64p 1:1\)"),
        (dict(resolution="240p"), "unknown resolution '240p'; known: 64p"),
        (dict(aspect_ratio="2:1"), "unknown aspect_ratio '2:1'.*nearest is '1:1'"),
        (dict(image=picture(64, 128)), "has another aspect than the video of 64x64"),
        (dict(prompt=""), "is empty"),
        (dict(prompt=[]), "a list of texts"),
        (dict(prompt=None), "either prompt or prompt_embeds"),
        (dict(prompt_embeds=torch.zeros(1, 2, CAPTION_CHANNELS)), "not both"),
        (dict(prompt_attention_mask=torch.ones(1, 2)), "belongs to prompt_embeds"),
        (dict(prompt=None, prompt_embeds=torch.zeros(1, 2, 3)), r"at most 12 tokens, 24\), got \(1, 2, 3\)"),
        (dict(prompt=None, prompt_embeds=torch.zeros(1, 13, CAPTION_CHANNELS)), "at most 12 tokens"),
        (
            dict(
                prompt=None,
                prompt_embeds=torch.zeros(1, 2, CAPTION_CHANNELS),
                prompt_attention_mask=torch.zeros(1, 2),
            ),
            "has no token",
        ),
        (dict(references=[picture()], mask_strategy="0,0,x"), "reference_start of entry 1, at character 5"),
        (dict(references=[picture()]), "without mask_strategy"),
        (dict(image=picture(), references=[picture()]), "image stands for"),
        (dict(num_inference_steps=0), "num_inference_steps must be a whole number, at least 1, got 0"),
        (dict(num_videos_per_prompt=0), "num_videos_per_prompt must be"),
        (dict(loop=0), "loop must be"),
        (dict(loop=2), "output_type='latent' needs loop=1"),
        (dict(loop=2, output_type="np"), "multiple of 5 latent frames and below the clip's 1"),
        (dict(loop=2, output_type="np", num_frames=34, condition_frame_length=3), "multiple of 5"),
        (dict(loop=2, output_type="np", num_frames=34, condition_frame_edit=2.0), r"must be in \[0, 1\], got 2"),
        (dict(loop=2, output_type="np", latents=torch.zeros(1)), "latents are the noise of one clip"),
        (dict(latents=torch.zeros(1, 4, 2, 8, 8)), r"have shape \(1, 4, 2, 8, 8\), but .* needs \(1, 4, 1, 8, 8\)"),
        (dict(generator=[seeded(0), seeded(1)]), "2 generators were given for 1 videos"),
        (dict(output_type="gif"), "unknown output_type 'gif'; known: pil, np, pt, latent"),
        (dict(callback_on_step_end_tensor_inputs=["noise"]), "unknown callback tensor input 'noise'"),
        (dict(camera_motion="spin"), "unknown camera_motion 'spin'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(pipe, arguments, message) -> None:
    def never(*_):
        raise AssertionError("the transformer was called")

    hook = pipe.transformer.register_forward_pre_hook(never)
    try:
        with pytest.raises(ValueError, match=message):
            clip(pipe, **arguments)
    finally:
        hook.remove()


def test_a_2d_autoencoder_is_refused() -> None:
    with pytest.raises(ValueError, match="the vae, a AutoencoderKL, has no temporal weights"):
        OpenSoraPipeline(None, None, AutoencoderKL(), tiny_transformer(), flow_scheduler())


def test_without_a_text_encoder_embeddings_are_asked_for() -> None:
    pipe = tiny_pipeline(text=False)
    with pytest.raises(ValueError, match="no text encoder; give prompt_embeds"):
        clip(pipe)
    frames = clip(pipe, prompt=None, prompt_embeds=torch.zeros(1, 3, CAPTION_CHANNELS), num_inference_steps=1)
    assert frames.shape == (1, 4, 1, 8, 8)


def test_a_saved_pipeline_is_loaded_as_it_was(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "OpenSoraPipeline"
    assert index["transformer"] == ["dita.pipelines.opensora.transformer", "OpenSoraTransformer3DModel"]
    loaded = OpenSoraPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.sizes == pipe.sizes
    assert torch.equal(clip(loaded), clip(pipe))


def test_t5_stays_in_float32_unless_asked(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path)
    half = OpenSoraPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert (half.transformer.dtype, half.vae.dtype) == (torch.bfloat16,) * 2
    assert half.text_encoder.dtype == torch.float32
    asked = OpenSoraPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, text_encoder_dtype=torch.bfloat16)
    assert asked.text_encoder.dtype == torch.bfloat16
    half.set_progress_bar_config(disable=True)
    latents = clip(half, image=picture())
    assert latents.dtype == torch.float32 and latents.isfinite().all(), "latents become float32 at the first step"
    assert np.isfinite(clip(half, output_type="np")).all()


def test_the_null_caption_can_be_offloaded(pipe) -> None:
    plain = clip(pipe)
    other = tiny_pipeline()
    accelerate.cpu_offload(other.transformer, execution_device=torch.device("cpu"), offload_buffers=True)
    assert other.transformer.null_caption.is_meta
    assert torch.equal(clip(other), plain)


def test_components_can_be_shared(pipe) -> None:
    other = OpenSoraPipeline(**pipe.components, sizes=pipe.config.sizes)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(clip(other), clip(pipe))


def test_attention_backends_of_the_pipeline(pipe) -> None:
    plain = clip(pipe)
    other = tiny_pipeline()
    other.transformer.set_attention_backend("native")
    assert torch.equal(clip(other), plain)


@pytest.mark.slow
def test_a_fresh_process_loads_the_folder(pipe, tmp_path) -> None:
    pipe.save_pretrained(tmp_path)
    code = (
        "from dita.pipelines.opensora import OpenSoraPipeline;"
        f"print(type(OpenSoraPipeline.from_pretrained({str(tmp_path)!r}).vae).__name__)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith("AutoencoderKLOpenSora")


def test_it_is_an_ordinary_diffusers_pipeline(pipe) -> None:
    assert isinstance(pipe, DiffusionPipeline)
    assert set(pipe.components) == {"tokenizer", "text_encoder", "vae", "transformer", "scheduler"}
    assert pipe.model_cpu_offload_seq.split("->") == ["text_encoder", "transformer", "vae"]
    assert type(tiny_autoencoder()).__name__ in repr(pipe.vae)


# ------------------------------------------------------------------------------------------------ guidance in mid-run


def switching(scale: float, embeds: bool):
    """A callback that sets the scale after three steps, with the prompts handed back or not."""

    def callback(pipe, i, t, given):
        if i == 2:
            pipe._guidance_scale = scale
            return dict(given) if embeds else {}
        return None if i % 2 else {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


@pytest.mark.parametrize("method", [None, "toca:1:0.5", "fora:3", "toca:3:0.5", "taylorseer:3:1", "pab:2"])
@pytest.mark.parametrize("prompts", ["a red circle", ["a red circle", "two squares"]])
@pytest.mark.parametrize(("before", "after"), [(7.0, 1.0), (7.0, 0.0), (1.0, 7.0), (7.0, 3.0)])
def test_guidance_that_a_callback_switches(prompts, before: float, after: float, method: str | None) -> None:
    given = {"num_inference_steps": 8, "guidance_scale": before}

    def run(method: str | None, embeds: bool) -> torch.Tensor:
        pipe = tiny_pipeline() if method is None else dita.enable(tiny_pipeline(), method)
        return clip(pipe, prompts, **switching(after, embeds), **given)

    found, plain = run(method, False), run(None, True)
    assert found.shape == plain.shape and torch.isfinite(found).all()
    assert torch.equal(found, run(method, True))
    if method in (None, "toca:1:0.5"):
        assert torch.equal(found, plain)
        assert not torch.equal(found, clip(tiny_pipeline(), prompts, **given))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda given: {"prompt_embeds": given["prompt_embeds"][:1]}, "one row for each video"),
        (lambda given: {"prompt_embeds": given["prompt_embeds"].repeat(2, 1, 1)}, "the null prompt is added"),
        (lambda given: {"prompt_embeds": given["prompt_embeds"][:, :2]}, "return both"),
        (lambda given: {"latents": given["latents"][:1]}, "latents of shape"),
    ],
)
def test_what_a_callback_returns_must_fit(change, words: str) -> None:
    names = ["latents", "prompt_embeds", "prompt_attention_mask"]
    with pytest.raises(ValueError, match=words):
        clip(
            tiny_pipeline(),
            ["a red circle", "two squares"],
            callback_on_step_end=lambda pipe, i, t, given: change(given),
            callback_on_step_end_tensor_inputs=names,
        )


# ------------------------------------------------------------------------------------------------ each video as alone


EDIT = "0,0,0,0,1,0.6"
"""A reference whose frame joins the denoising in mid-run: its noise is drawn then."""


@pytest.mark.parametrize("method", [None, "toca:3:0.5"])
@pytest.mark.parametrize("loop", [1, 2])
@pytest.mark.parametrize("referring", [(), (0,), (1,), (0, 1)], ids=str)
def test_each_video_is_what_it_is_alone(referring: tuple[int, ...], loop: int, method: str | None) -> None:
    """With a generator of its own, whether it, or its neighbour, has a reference or not."""
    prompts = ["a red circle", "two squares"]
    given = {"num_frames": 34, "height": 32, "width": 32, "loop": loop, "num_inference_steps": 4}
    given["output_type"] = "latent" if loop == 1 else "pt"

    def run(chosen: list[int], videos: int = 1) -> torch.Tensor:
        pipe = tiny_pipeline() if method is None else dita.enable(tiny_pipeline(), method)
        own = {}
        if referring:
            own["references"] = [[picture()] if i in referring else [] for i in chosen]
            own["mask_strategy"] = [EDIT if i in referring else "" for i in chosen]
            if len(chosen) == 1:
                own["references"] = own["references"][0]
        generators = [seeded(10 * i + n) for i in chosen for n in range(videos)]
        texts = [prompts[i] for i in chosen]
        return clip(pipe, texts, generator=generators, num_videos_per_prompt=videos, **own, **given)

    both = run([0, 1])
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], run([i]), atol=2e-4, rtol=1e-3)
    if loop == 1:
        four = run([0, 1], videos=2)
        for i in range(2):
            torch.testing.assert_close(four[2 * i : 2 * i + 2], run([i], videos=2), atol=2e-4, rtol=1e-3)
            torch.testing.assert_close(four[2 * i : 2 * i + 1], run([i]), atol=2e-4, rtol=1e-3)


def test_two_videos_of_a_prompt_draw_their_own_references() -> None:
    given = {"image": picture(), "height": 32, "width": 32, "num_inference_steps": 3}
    both = clip(tiny_pipeline(), generator=[seeded(1), seeded(2)], num_videos_per_prompt=2, **given)
    for i in range(2):
        alone = clip(tiny_pipeline(), generator=[seeded(i + 1)], **given)
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    assert not torch.equal(both[0, :, 0], both[1, :, 0]), "the picture's latents are drawn from a posterior"
