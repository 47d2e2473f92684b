"""The video autoencoder: parity with the official one, lengths, and bounded work at a time."""

from __future__ import annotations

import pytest
import torch

from dita.pipelines.opensora import AutoencoderKLOpenSora
from tests.pipelines.opensora.conftest import distance
from tests.tiny_opensora import tiny_autoencoder

DTYPES = [(torch.float32, "f32", 1e-5), (torch.float64, "f64", 1e-6)]


def statistics(vae: AutoencoderKLOpenSora, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    config = vae.config
    mean, std = (torch.tensor(v, dtype=dtype).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    return mean, std


@pytest.fixture
def recorded_noise(monkeypatch, reference):
    """Posteriors draw the noise that the official run drew."""
    data = reference("vae_pipeline_39f")
    noises = [data[name] for name in sorted(data) if name.startswith("in.noise.")]

    def draw(shape, dtype, **_):
        noise = noises.pop(0)
        assert noise.shape == shape
        return noise.to(dtype)

    monkeypatch.setattr("diffusers.models.autoencoders.vae.randn_tensor", draw)
    return noises


@pytest.mark.parametrize(("dtype", "name", "tolerance"), DTYPES)
@pytest.mark.parametrize("frames", [1, 5, 8, 17])
def test_a_clip_is_the_official_one(frames, dtype, name, tolerance, reference, reference_autoencoder) -> None:
    data, temporal = reference("vae_temporal"), reference_autoencoder(dtype).temporal_vae
    moments = temporal.encode(data[f"T{frames}.in.x"].to(dtype))
    assert distance(moments, data[f"T{frames}.{name}.moments"]) < tolerance
    decoded = temporal.decode(data[f"T{frames}.in.z"].to(dtype), frames)
    assert distance(decoded, data[f"T{frames}.{name}.decoded"]) < tolerance


def test_every_layer_of_a_clip_is_the_official_one(reference, reference_autoencoder) -> None:
    data, temporal = reference("vae_temporal"), reference_autoencoder(torch.float32).temporal_vae
    ours = {
        "encoder": "encoder",
        "encoder.conv_in": "encoder.conv_in",
        "encoder.conv_blocks.1": "encoder.down_blocks.1.resample",
        "encoder.conv_blocks.2": "encoder.down_blocks.2.resample",
        "encoder.res_blocks.0": "encoder.mid_block.resnets.0",
        "encoder.norm1": "encoder.norm_out",
        "encoder.conv2": "encoder.conv_out",
        "quant_conv": "quant_conv",
        "post_quant_conv": "post_quant_conv",
        "decoder": "decoder",
        "decoder.conv1": "decoder.conv_in",
        "decoder.res_blocks.0": "decoder.mid_block.resnets.0",
        "decoder.conv_blocks.2": "decoder.up_blocks.0.resample.conv",
        "decoder.conv_blocks.1": "decoder.up_blocks.1.resample.conv",
        "decoder.norm1": "decoder.norm_out",
        "decoder.conv_out": "decoder.conv_out",
    }
    assert {f"T5.layer.{official}" for official in ours} == {name for name in data if ".layer." in name}
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        temporal.get_submodule(name).register_forward_hook(lambda _m, _i, output, key=key: seen.update({key: output}))
        for key, name in ours.items()
    ]
    temporal.encode(data["T5.in.x"])
    temporal.decode(data["T5.f32.moments"].chunk(2, dim=1)[0], 5)
    for hook in hooks:
        hook.remove()
    for key, output in seen.items():
        assert distance(output, data[f"T5.layer.{key}"]) < 1e-5, key


@pytest.mark.parametrize(("dtype", "name", "tolerance"), DTYPES)
def test_a_video_is_the_official_one(dtype, name, tolerance, reference, reference_autoencoder) -> None:
    data, vae = reference("vae_pipeline_39f"), reference_autoencoder(dtype)
    mean, std = statistics(vae, dtype)
    latents = vae.encode(data["in.video"].to(dtype), sample_frames=False).latent_dist.mode()
    assert distance((latents - mean) / std, data[f"{name}.latent_mode"]) < tolerance
    video = vae.decode(data["in.latent"].to(dtype) * std + mean, 39).sample
    assert distance(video, data[f"{name}.decoded"]) < tolerance


@pytest.mark.parametrize(("dtype", "name", "tolerance"), DTYPES)
def test_noise_is_drawn_in_the_official_order(
    dtype, name, tolerance, reference, reference_autoencoder, recorded_noise
) -> None:
    data, vae = reference("vae_pipeline_39f"), reference_autoencoder(dtype)
    mean, std = statistics(vae, dtype)
    latents = vae.encode(data["in.video"].to(dtype)).latent_dist.sample()
    assert distance((latents - mean) / std, data[f"{name}.latent_sample"]) < tolerance
    assert recorded_noise == []


@pytest.mark.parametrize(
    ("frames", "latents"), [(1, 1), (16, 4), (17, 5), (34, 10), (51, 15), (102, 30), (204, 60), (408, 120), (816, 240)]
)
def test_latent_frames(frames, latents) -> None:
    vae = tiny_autoencoder()
    assert vae.latent_frames(frames) == latents
    assert vae.sample_frames(latents) == (frames if frames > 1 else 4)


@pytest.mark.parametrize("frames", [1, 3, 16, 17, 18, 34, 39])
def test_a_decoded_video_has_the_length_of_the_encoded_one(frames) -> None:
    vae = tiny_autoencoder()
    video = torch.zeros(2, 3, frames, 24, 16)
    latents = vae.encode(video).latent_dist.mode()
    assert latents.shape == (2, 4, vae.latent_frames(frames), 3, 2)
    assert vae.decode(latents, frames).sample.shape == video.shape
    assert vae(video).sample.shape == video.shape


def test_clips_do_not_see_each_other_and_frames_do_not_see_later_ones() -> None:
    vae = tiny_autoencoder()
    video = torch.randn(1, 3, 34, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = vae.encode(video, sample_frames=False).latent_dist.mode()
    alone = vae.encode(video[:, :, 17:], sample_frames=False).latent_dist.mode()
    torch.testing.assert_close(whole[:, :, 5:], alone)
    longer = vae.temporal_vae.encode(torch.randn(1, 4, 8, 2, 2, generator=torch.Generator().manual_seed(1)))
    assert longer.shape[2] == 2


def test_convolutions_are_causal() -> None:
    vae = tiny_autoencoder()
    conv = vae.temporal_vae.encoder.conv_in
    x = torch.randn(1, 4, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(conv(x)[:, :, :4], conv(changed)[:, :, :4])
    assert not torch.equal(conv(x)[:, :, 4:], conv(changed)[:, :, 4:])


def test_work_at_a_time_does_not_grow_with_the_length() -> None:
    vae = tiny_autoencoder()
    seen: dict[str, set[int]] = {"frames": set(), "clip": set()}
    vae.spatial_vae.decoder.register_forward_hook(lambda _m, inputs, _o: seen["frames"].add(inputs[0].shape[0]))
    vae.temporal_vae.decoder.register_forward_hook(lambda _m, inputs, _o: seen["clip"].add(inputs[0].shape[2]))
    vae.decode(torch.zeros(1, 4, 15, 2, 2), 51)
    assert max(seen["frames"]) == 4 and seen["clip"] == {5}
    vae.frame_batch_size = 1
    seen["frames"].clear()
    vae.decode(torch.zeros(1, 4, 15, 2, 2), 51)
    assert seen["frames"] == {1}


def test_tiles_bound_the_size_of_a_frame() -> None:
    vae = tiny_autoencoder()
    vae.spatial_vae.tile_latent_min_size, vae.spatial_vae.tile_sample_min_size = 4, 32
    seen = set()
    vae.spatial_vae.decoder.register_forward_hook(lambda _m, inputs, _o: seen.add(inputs[0].shape[-2:]))
    latents = torch.zeros(1, 4, 1, 6, 10)
    assert vae.decode(latents, 1).sample.shape == (1, 3, 1, 48, 80)
    assert seen == {(6, 10)}
    seen.clear()
    vae.enable_tiling()
    assert vae.decode(latents, 1).sample.shape == (1, 3, 1, 48, 80)
    assert max(side for size in seen for side in size) == 4
    seen.clear()
    vae.disable_tiling()
    vae.decode(latents, 1)
    assert seen == {(6, 10)}


def test_a_length_that_does_not_fit_the_latents_is_refused() -> None:
    with pytest.raises(ValueError, match=r"34 frames have 10 latent frames, but the latents have 5; .* 17 frames"):
        tiny_autoencoder().decode(torch.zeros(1, 4, 5, 2, 2), 34)


def test_wrong_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="latents_mean must have 4 values"):
        tiny_autoencoder(latents_mean=(0.0,))
    with pytest.raises(ValueError, match="4 levels need 3 values of downsample, got 1"):
        tiny_autoencoder(temporal_downsample=(True,))


def test_a_saved_autoencoder_loads_as_it_was(tmp_path) -> None:
    vae = tiny_autoencoder()
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderKLOpenSora.from_pretrained(tmp_path).requires_grad_(False)
    video = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(video).sample, vae(video).sample)
