"""Open-Sora 1.2 as a diffusers pipeline: videos and images from text, and from pictures and clips as references."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor

from dita.pipelines.opensora import convert, prompts
from dita.pipelines.opensora.autoencoder import AutoencoderKLOpenSora
from dita.pipelines.opensora.mask_strategy import ALIGN
from dita.pipelines.opensora.references import Conditions, Reference, arrange, place, reference_video
from dita.pipelines.opensora.scheduler import active_frames, add_noise, flow_scheduler, set_timesteps, time_shift
from dita.pipelines.opensora.sizes import SIZES, SizeTable, VideoFormat
from dita.pipelines.opensora.text_encoder import TEXT_ENCODER, load_text_encoder
from dita.pipelines.opensora.transformer import OpenSoraTransformer3DModel
from dita.values import integer, unknown

DTYPE_ARGUMENT = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 42) else "torch_dtype"
"""What diffusers calls the precision to load in."""

IMAGE_FPS = 120
"""The frame rate that the model was told for single images."""

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Generator = torch.Generator | list[torch.Generator] | None
Callback = Callable[[Any, int, torch.Tensor, dict[str, Any]], dict[str, Any]]
"""As in diffusers, whose `PipelineCallback` and `MultiPipelineCallbacks` are callable like this."""


class PromptTruncatedWarning(UserWarning):
    """A prompt has more tokens than the model reads."""


@dataclass
class OpenSoraPipelineOutput(BaseOutput):
    """`frames`: lists of PIL pictures, an array `(B, T, H, W, 3)`, a tensor `(B, T, 3, H, W)`, or latents."""

    frames: Any


class OpenSoraPipeline(DiffusionPipeline):
    """Text to video with Open-Sora 1.2, with pictures and videos as references, and of any length by loops.

    Args:
        tokenizer, text_encoder: T5 v1.1 XXL; None for a pipeline that is called with `prompt_embeds`.
        vae: the video autoencoder.
        transformer: STDiT3.
        scheduler: `FlowMatchEulerDiscreteScheduler` as `flow_scheduler` makes it.
        sizes: the allowed sizes, `{resolution: {aspect ratio: [height, width]}}`; None for those of Open-Sora 1.2.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["tokenizer", "text_encoder"]  # noqa: RUF012 (diffusers' own form)
    _callback_tensor_inputs = ["latents", "prompt_embeds", "prompt_attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        vae: AutoencoderKLOpenSora,
        transformer: OpenSoraTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        sizes: dict[str, dict[str, list[int]]] | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(vae, "temporal_vae"):
            raise ValueError(
                f"the vae, a {type(vae).__name__}, has no temporal weights; Open-Sora 1.2 needs AutoencoderKLOpenSora"
                f" ({convert.AUTOENCODER})"
            )
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(sizes=sizes)
        self.video_processor = VideoProcessor(do_resize=False)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        text_encoder_dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> OpenSoraPipeline:
        """As diffusers' own, but T5 is loaded in `text_encoder_dtype` whatever `dtype` the rest has.

        Open-Sora was trained and is sampled with a float32 T5; bfloat16 halves its 19 GB.
        """
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        if dtype is None or isinstance(dtype, torch.dtype):
            dtype = {"default": dtype or torch.float32, "text_encoder": text_encoder_dtype}
        kwargs[DTYPE_ARGUMENT] = dtype
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_original(
        cls,
        transformer: str | os.PathLike[str] = convert.TRANSFORMER,
        vae: str | os.PathLike[str] = convert.AUTOENCODER,
        text_encoder: str | os.PathLike[str] | None = TEXT_ENCODER,
        *,
        dtype: torch.dtype | None = None,
        text_encoder_dtype: torch.dtype = torch.float32,
        **hub: Any,
    ) -> OpenSoraPipeline:
        """The pipeline of the official files: hub ids, folders, or single safetensors files.

        `text_encoder` is a T5 v1.1 XXL in transformers' layout, at the top or in `text_encoder` and `tokenizer`, or
        None. `dtype` is that of transformer and autoencoder, as stored by default. `hub` goes to the downloads
        (`cache_dir`, `token`, `local_files_only`).
        Raises `ValueError` for a missing or extra tensor, by its name, and for pickled weights.
        """
        tokenizer, encoder = (
            (None, None) if text_encoder is None else load_text_encoder(text_encoder, text_encoder_dtype, **hub)
        )
        return cls(
            tokenizer=tokenizer,
            text_encoder=encoder,
            vae=convert.load_autoencoder(vae, dtype=dtype, **hub),
            transformer=convert.load_transformer(transformer, dtype=dtype, **hub),
            scheduler=flow_scheduler(),
        )

    @property
    def sizes(self) -> SizeTable:
        """The allowed (height, width), by resolution and aspect ratio."""
        own = self.config.sizes
        if own is None:
            return SIZES
        return {name: {ratio: (row[0], row[1]) for ratio, row in sizes.items()} for name, sizes in own.items()}

    @property
    def guidance_scale(self) -> float:
        """Of the current call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the transformer sees the null prompt, too."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of one loop of the current call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """The time that is being denoised, 1000 for noise; None outside of the loop."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether the remaining steps are left out; a callback sets `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        resolution: str | None = None,
        aspect_ratio: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | str = "2s",
        fps: float = 24,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,
        image: Reference | None = None,
        references: Sequence[Any] | None = None,
        mask_strategy: str | list[str] | None = None,
        align: int | None = ALIGN,
        crop_references: bool = False,
        loop: int = 1,
        condition_frame_length: int = 5,
        condition_frame_edit: float = 0.0,
        aesthetic_score: float | None = 6.5,
        motion_score: float | None = None,
        camera_motion: str | None = None,
        clean_caption: bool = True,
        num_videos_per_prompt: int = 1,
        generator: Generator = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_attention_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> OpenSoraPipelineOutput | tuple[Any]:
        """Makes videos.

        Args:
            prompt: a text, or several; `"|0|a dog|2|a cat"` changes the text from loop 2 on.
            resolution, aspect_ratio: a size by name, 240p and 9:16 by default. The ratio is height:width, as in
                Open-Sora: "9:16" is a landscape video, "16:9" a portrait one.
            height, width: the size in nominal pixels instead; it must be one of `sizes`. The video is cut to
                multiples of 8: 480x854 comes out as 480x848.
            num_frames: a name such as "2s" or "16s", or a number; 1 makes an image.
            fps: frames a second that the model is told, and that the video is to be played at.
            num_inference_steps, guidance_scale: the official 30 and 7.0; a scale of at most 1 turns guidance off.
            image: a picture to start from; short for `references=[image], mask_strategy="0"`.
            references: pictures and videos that `mask_strategy` places: a list, or one list for each prompt.
            mask_strategy: entries `loop,reference,reference_start,target_start,length,edit` with `;` between, in
                latent frames (see `dita.pipelines.opensora.mask_strategy`); one for all prompts, or one for each.
            align: starts in a mask strategy are snapped to a multiple of this; None turns it off.
            crop_references: cut references of another aspect about their centre, which is an error otherwise.
            loop: clips to make, each one from the last `condition_frame_length` latent frames of that before; the
                frames that they share are cut from the later one.
            condition_frame_edit: `edit` of those frames.
            aesthetic_score, motion_score, camera_motion: what is appended to a prompt that does not say it itself.
            clean_caption: clean prompts as the training captions were (needs ftfy and beautifulsoup4).
            num_videos_per_prompt: videos of each prompt.
            generator: one, or one for each video.
            latents: the initial noise `(B, 4, T, H / 8, W / 8)`, for one loop.
            prompt_embeds, prompt_attention_mask: T5's states instead of prompts, `(B, L, 4096)` and `(B, L)`.
            output_type: "pil", "np", "pt", or "latent" for normalised latents.
            return_dict: an `OpenSoraPipelineOutput`, or a tuple.
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in diffusers; called after each step.

        Raises `ValueError` for sizes and lengths outside of the tables, empty prompts, references of another aspect,
        a mask strategy that does not parse or does not fit, and conflicting arguments.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs

        # 1. What is to be made, and that the arguments agree
        video = VideoFormat.choose(
            resolution=resolution,
            aspect_ratio=aspect_ratio,
            height=height,
            width=width,
            num_frames=num_frames,
            fps=fps,
            table=self.sizes,
        )
        self._check_prompts(prompt, prompt_embeds, prompt_attention_mask)
        num_inference_steps = integer("num_inference_steps", num_inference_steps)
        num_videos_per_prompt = integer("num_videos_per_prompt", num_videos_per_prompt)
        loop = integer("loop", loop)
        self._check_output(output_type, callback_on_step_end_tensor_inputs)
        if loop > 1:
            self._check_loop(video, condition_frame_length, condition_frame_edit, latents, output_type)
        texts = None
        if prompt is not None:
            texts = prompts.finished(
                [prompt] if isinstance(prompt, str) else prompt,
                loop,
                aesthetic=aesthetic_score,
                motion=motion_score,
                camera_motion=camera_motion,
                cleaned=clean_caption,
            )
        count = len(texts[0]) if texts is not None else len(prompt_embeds)  # type: ignore[arg-type]
        batch = count * num_videos_per_prompt
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators were given for {batch} videos; give one, or one for each")
        arranged = arrange(image, references, mask_strategy, count, loop)
        placed = [
            (
                [reference_video(item, video.height, video.width, self._ratios, crop=crop_references) for item in own],
                entries,
            )
            for own, entries in arranged
        ]

        device = self._execution_device
        self._guidance_scale = guidance_scale
        self._current_timestep = None
        self._interrupt = False

        # 2. References become latents before any noise is drawn, as in the official sampler
        conditions = []
        for number, (own, entries) in enumerate(placed):
            sources: list[Generator] = [
                generator
            ]  # one for all: a prompt's references are drawn once, as in the official sampler
            if isinstance(generator, list):  # each video draws its own, as if it were alone
                sources = [*generator[number * num_videos_per_prompt :][:num_videos_per_prompt]]
            encoded = [[self._encode(item, source)[0] for item in own] for source in sources]
            conditions += [
                Conditions(list(entries), list(encoded[i % len(encoded)])) for i in range(num_videos_per_prompt)
            ]

        # 3. One clip after the other
        clips: list[torch.Tensor] = []
        for k in range(loop):
            embeds, mask = self._embeds(
                None if texts is None else texts[k], prompt_embeds, prompt_attention_mask, num_videos_per_prompt, device
            )
            if clips:
                for condition, latent in zip(conditions, self._encode(clips[-1], generator), strict=True):
                    condition.add(latent, k, condition_frame_length, condition_frame_edit)
            noise = self.prepare_latents(batch, video, generator, device, latents)
            referring = [own.in_loop(k) for own in conditions]
            noise, frame_mask = place(noise, conditions, k, align)
            timesteps = set_timesteps(self.scheduler, num_inference_steps, self._time_shift(video), device)
            result = self.denoise(
                noise,
                timesteps,
                embeds,
                mask,
                video,
                frame_mask=frame_mask,
                referring=referring,
                generator=generator,
                callback=callback_on_step_end,
                callback_inputs=callback_on_step_end_tensor_inputs,
            )
            if output_type != "latent":
                clips.append(self.decode_latents(result, video.num_frames))

        frames: Any = result
        if clips:
            shared = self.vae.sample_frames(condition_frame_length)
            joined = torch.cat([clips[0], *(clip[:, :, shared:] for clip in clips[1:])], dim=2)
            frames = self.video_processor.postprocess_video(joined, output_type=output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=frames) if return_dict else (frames,)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | list[str],
        num_videos_per_prompt: int = 1,
        *,
        loop: int = 0,
        aesthetic_score: float | None = 6.5,
        motion_score: float | None = None,
        camera_motion: str | None = None,
        clean_caption: bool = True,
        device: torch.device | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """T5's states of prompts, `prompt_embeds` and `prompt_attention_mask` of a call.

        `(B, L, caption_channels)` with L the tokens of the longest prompt, and a bool mask `(B, L)`, None where all
        prompts have L tokens. Prompts get their scores and are cleaned, as in a call.
        """
        texts = prompts.finished(
            [prompt] if isinstance(prompt, str) else prompt,
            loop + 1,
            aesthetic=aesthetic_score,
            motion=motion_score,
            camera_motion=camera_motion,
            cleaned=clean_caption,
        )
        return self._embeds(texts[loop], None, None, num_videos_per_prompt, device or self._execution_device)

    def token_counts(
        self,
        prompt: list[str],
        loop: int = 1,
        aesthetic_score: float | None = 6.5,
        motion_score: float | None = None,
        camera_motion: str | None = None,
        clean_caption: bool = True,
    ) -> list[int]:
        """Tokens of each prompt with what a call adds to it, in its longest loop; the model reads no more than
        `transformer.config.caption_max_length`."""
        loops = prompts.finished(
            prompt,
            loop,
            aesthetic=aesthetic_score,
            motion=motion_score,
            camera_motion=camera_motion,
            cleaned=clean_caption,
        )
        counted = [[len(ids) for ids in self.tokenizer(texts, truncation=False).input_ids] for texts in loops]
        return [max(counts) for counts in zip(*counted, strict=True)]

    def prepare_latents(
        self,
        batch: int,
        video: VideoFormat,
        generator: Generator,
        device: torch.device,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Noise `(batch, 4, T, H / 8, W / 8)` in the transformer's dtype; or `latents`, if they have that shape."""
        cell = self.vae.spatial_compression_ratio
        shape = (
            batch,
            self.transformer.config.in_channels,
            self.vae.latent_frames(video.num_frames),
            video.height // cell,
            video.width // cell,
        )
        if latents is None:
            return randn_tensor(shape, generator=generator, device=device, dtype=self.transformer.dtype)
        if latents.shape != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}, but this call needs {shape}")
        return latents.to(device)

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        prompt_embeds: torch.Tensor,
        prompt_attention_mask: torch.Tensor | None,
        video: VideoFormat,
        *,
        frame_mask: torch.Tensor | None = None,
        referring: Sequence[bool] | None = None,
        generator: Generator = None,
        callback: Callback | None = None,
        callback_inputs: Sequence[str] = ("latents",),
    ) -> torch.Tensor:
        """Latents of data from latents of noise (spec 3), over the times that the scheduler was set to.

        `frame_mask` `(B, T)` in [0, 1], on the CPU: 1 generates a frame, 0 keeps it, and a frame of e joins at time e.
        `referring`: which of the videos have references; without it, all do where there is a mask. Only their
        generators are drawn from in the steps, so that a video does not depend on its neighbours.

        Guidance is what `guidance_scale` is in each step; a callback may set `_guidance_scale`. Raises `ValueError`
        where a callback returns tensors of other sizes than the videos need.
        """
        self._num_timesteps = len(timesteps)
        active = None
        joined = torch.ones(0) if frame_mask is None else frame_mask >= 1
        times = [] if frame_mask is None else timesteps.tolist()  # no synchronisation where none is needed
        guided = self.do_classifier_free_guidance
        text = self._with_null_prompt(prompt_embeds, prompt_attention_mask)
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, t in enumerate(timesteps):
                if self._interrupt:
                    continue
                self._current_timestep = t
                if frame_mask is not None:
                    active = active_frames(frame_mask, times[i])
                    latents = self._join(latents, active & ~joined, t, generator, referring)
                    joined = active
                if guided != self.do_classifier_free_guidance:  # a callback has set the scale
                    guided = self.do_classifier_free_guidance
                    text = self._with_null_prompt(prompt_embeds, prompt_attention_mask)
                velocity = self._velocity(latents, t, *text, video, active)
                # the flow of the official model points to the data, the scheduler's to the noise
                moved = self.scheduler.step(-velocity, t, latents, return_dict=False)[0]
                latents = moved if active is None else torch.where(_per_frame(active, moved), moved, latents)
                if callback is not None:
                    now = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "prompt_attention_mask": prompt_attention_mask,
                    }
                    outputs = callback(self, i, t, {name: now[name] for name in callback_inputs}) or {}
                    self._check_returned(now, outputs)
                    latents = outputs.pop("latents", latents)
                    if outputs.keys() & now.keys():
                        prompt_embeds = outputs.pop("prompt_embeds", prompt_embeds)
                        prompt_attention_mask = outputs.pop("prompt_attention_mask", prompt_attention_mask)
                        guided = self.do_classifier_free_guidance
                        text = self._with_null_prompt(prompt_embeds, prompt_attention_mask)
                progress_bar.update()
        self._current_timestep = None
        return latents

    def decode_latents(self, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Videos `(B, 3, num_frames, H, W)`, about in [-1, 1], of normalised latents."""
        latents = latents.to(self.vae.dtype)
        mean, std = self._latent_statistics(latents)
        return self.vae.decode(latents * std + mean, num_frames, return_dict=False)[0]

    def _encode(self, video: torch.Tensor, generator: Generator) -> torch.Tensor:
        """Normalised latents of videos `(B, 3, T, H, W)`, sampled from their posterior."""
        video = video.to(self._execution_device, self.vae.dtype)
        sources = generator if isinstance(generator, list) else [generator]
        latents = torch.cat(
            [
                self.vae.encode(part, source).latent_dist.sample(source)
                for part, source in zip(video.chunk(len(sources)), sources, strict=True)
            ]
        )
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def _latent_statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = (
            torch.tensor(values, dtype=latents.dtype, device=latents.device).view(1, -1, 1, 1, 1)
            for values in (self.vae.config.latents_mean, self.vae.config.latents_std)
        )
        return mean, std

    def _embeds(
        self,
        texts: list[str] | None,
        prompt_embeds: torch.Tensor | None,
        prompt_attention_mask: torch.Tensor | None,
        num_videos_per_prompt: int,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States `(B, L, C)` cut to the longest text, and the mask `(B, L)` where texts differ in length.

        Without padding nothing has to be masked, and fused attention without a mask is the fast one.
        """
        if texts is not None:
            prompt_embeds, prompt_attention_mask = self._read(texts, device)
        assert prompt_embeds is not None  # checked by the caller
        embeds = prompt_embeds.to(device, self.transformer.dtype).repeat_interleave(num_videos_per_prompt, dim=0)
        if prompt_attention_mask is None:
            return embeds, None
        mask = prompt_attention_mask.cpu().bool()
        length = int(mask.any(0).nonzero().max()) + 1
        embeds, mask = embeds[:, :length], mask[:, :length]
        return embeds, None if mask.all() else mask.repeat_interleave(num_videos_per_prompt, dim=0).to(device)

    def _read(self, texts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("this pipeline has no text encoder; give prompt_embeds instead of a prompt")
        most = self.transformer.config.caption_max_length
        for ids in self.tokenizer(texts, truncation=False).input_ids:
            if len(ids) > most:
                lost = self.tokenizer.decode(ids[most - 1 :], skip_special_tokens=True)
                warnings.warn(
                    f"the prompt has {len(ids)} tokens, and the model reads {most}; left out: {lost!r}",
                    PromptTruncatedWarning,
                    stacklevel=5,  # who called the pipeline, above `no_grad`
                )
        read = self.tokenizer(
            texts,
            max_length=most,
            padding="max_length",
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        states = self.text_encoder(read.input_ids.to(device), attention_mask=read.attention_mask.to(device))
        return states.last_hidden_state, read.attention_mask

    def _with_null_prompt(
        self, embeds: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """With guidance the null caption follows: as many of its states as the prompts have, under the same mask."""
        if not self.do_classifier_free_guidance:
            return embeds, mask
        null = self.transformer.null_caption_states(embeds.shape[1]).to(embeds.device, embeds.dtype)
        return torch.cat([embeds, null.expand_as(embeds)]), None if mask is None else torch.cat([mask, mask])

    def _velocity(
        self,
        latents: torch.Tensor,
        t: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        video: VideoFormat,
        active: torch.Tensor | None,
    ) -> torch.Tensor:
        guided = self.do_classifier_free_guidance
        copies = 2 if guided else 1
        frame_mask = None
        if active is not None and not active.all():  # a mask of all frames takes twice the modulation, for nothing
            frame_mask = active.repeat(copies, 1).to(latents.device)
        prediction = self.transformer(
            hidden_states=torch.cat([latents] * copies),
            timestep=t.expand(copies * len(latents)),
            encoder_hidden_states=text,
            encoder_attention_mask=text_mask,
            frame_mask=frame_mask,
            fps=IMAGE_FPS if video.num_frames == 1 else video.fps,
            height=video.height,
            width=video.width,
            return_dict=False,
        )[0][:, : latents.shape[1]]  # the other half of the channels, a variance, is not used
        if not guided:
            return prediction
        prompted, free = prediction.chunk(2)
        return free + self._guidance_scale * (prompted - free)

    def _join(
        self,
        latents: torch.Tensor,
        joining: torch.Tensor,
        t: torch.Tensor,
        generator: Generator,
        referring: Sequence[bool] | None,
    ) -> torch.Tensor:
        """Frames that join the denoising now get the noise of time `t`; it is drawn whether any does or not.

        Where each video has a generator, those without references are not drawn from, as they would not be alone.
        """
        like: dict[str, Any] = {"device": latents.device, "dtype": latents.dtype}
        if isinstance(generator, list) and referring is not None:
            one = (1, *latents.shape[1:])
            draws = [
                randn_tensor(one, generator=source, **like) if refers else torch.zeros(one, **like)
                for source, refers in zip(generator, referring, strict=True)
            ]
            noise = torch.cat(draws)
        else:
            noise = randn_tensor(latents.shape, generator=generator, **like)
        return torch.where(_per_frame(joining, latents), add_noise(latents, noise, t), latents)

    def _check_returned(self, now: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Raises `ValueError` for what a callback returns and the coming steps cannot use."""
        latents, embeds, mask = (outputs.get(name, value) for name, value in now.items())
        if latents.shape != now["latents"].shape:
            raise ValueError(
                f"the callback returned latents of shape {tuple(latents.shape)}, but the videos have"
                f" {tuple(now['latents'].shape)}"
            )
        if embeds.ndim != 3 or len(embeds) != len(latents) or embeds.shape[2] != now["prompt_embeds"].shape[2]:
            raise ValueError(
                f"the callback returned prompt_embeds of shape {tuple(embeds.shape)} for {len(latents)} videos; they"
                " hold the prompts alone, one row for each video, and the null prompt is added where guidance is on"
            )
        if mask is not None and mask.shape != embeds.shape[:2]:
            raise ValueError(
                f"the prompt_attention_mask is {tuple(mask.shape)} after a callback, but prompt_embeds have"
                f" {tuple(embeds.shape[:2])} rows and tokens; return both"
            )

    def _time_shift(self, video: VideoFormat) -> float:
        return time_shift(video.height, video.width, video.num_frames, self.transformer.dtype)

    @property
    def _ratios(self) -> dict[str, tuple[int, int]]:
        return {ratio: size for sizes in self.sizes.values() for ratio, size in sizes.items()}

    def _check_prompts(
        self,
        prompt: str | list[str] | None,
        prompt_embeds: torch.Tensor | None,
        prompt_attention_mask: torch.Tensor | None,
    ) -> None:
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("give either prompt or prompt_embeds" + (", not both" if prompt is not None else ""))
        if prompt is not None:
            if not isinstance(prompt, str) and not (
                isinstance(prompt, list) and prompt and all(isinstance(text, str) for text in prompt)
            ):
                raise ValueError(f"prompt must be a text or a list of texts, got {prompt!r}")
            if prompt_attention_mask is not None:
                raise ValueError("prompt_attention_mask belongs to prompt_embeds, which were not given")
            if self.text_encoder is None or self.tokenizer is None:
                raise ValueError("this pipeline has no text encoder; give prompt_embeds instead of a prompt")
            return
        assert prompt_embeds is not None
        config = self.transformer.config
        channels, most = config.caption_channels, config.caption_max_length
        if prompt_embeds.ndim != 3 or prompt_embeds.shape[2] != channels or not 1 <= prompt_embeds.shape[1] <= most:
            raise ValueError(
                f"prompt_embeds must be (prompts, at most {most} tokens, {channels}), got {tuple(prompt_embeds.shape)}"
            )
        if prompt_attention_mask is not None:
            if prompt_attention_mask.shape != prompt_embeds.shape[:2]:
                raise ValueError(
                    f"prompt_attention_mask must be {tuple(prompt_embeds.shape[:2])} as prompt_embeds, got"
                    f" {tuple(prompt_attention_mask.shape)}"
                )
            if not prompt_attention_mask.bool().any(1).all():
                raise ValueError("a row of prompt_attention_mask has no token: an empty prompt")

    def _check_output(self, output_type: str, callback_inputs: Sequence[str]) -> None:
        if output_type not in OUTPUT_TYPES:
            raise unknown("output_type", output_type, OUTPUT_TYPES)
        for name in callback_inputs:
            if name not in self._callback_tensor_inputs:
                raise unknown("callback tensor input", name, self._callback_tensor_inputs)

    def _check_loop(
        self, video: VideoFormat, length: int, edit: float, latents: torch.Tensor | None, output_type: str
    ) -> None:
        if latents is not None:
            raise ValueError("latents are the noise of one clip: they cannot be given with loop above 1")
        if output_type == "latent":
            raise ValueError("output_type='latent' needs loop=1: clips are joined as frames")
        clip, frames = self.vae.latent_frames(self.vae.config.chunk_frames), self.vae.latent_frames(video.num_frames)
        if length < 1 or length % clip or length >= frames:
            raise ValueError(
                f"condition_frame_length must be a multiple of {clip} latent frames and below the clip's {frames}, got"
                f" {length}; with loop above 1, num_frames must be more than {self.vae.sample_frames(clip)}"
            )
        if not 0 <= edit <= 1:
            raise ValueError(f"condition_frame_edit must be in [0, 1], got {edit}")


def _per_frame(mask: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """`(B, T)` as `(B, 1, T, 1, 1)`, beside `latents`."""
    return mask[:, None, :, None, None].to(latents.device)
