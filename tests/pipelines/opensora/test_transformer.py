"""STDiT3: parity with the official model, and the behaviour that diffusers expects of a model."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from dita.pipelines.opensora import OpenSoraTransformer3DModel
from dita.pipelines.opensora.embeddings import frame_rotary, patch_positions, rotate
from tests.pipelines.opensora.conftest import distance
from tests.tiny_opensora import CAPTION_CHANNELS, tiny_transformer

CASES = ("plain", "xmask", "xmask_alltrue", "odd", "image", "cfg")
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-6}


def arguments(data: dict[str, torch.Tensor], dtype: torch.dtype) -> dict:
    return dict(
        hidden_states=data["in.x"].to(dtype),
        timestep=data["in.timestep"].to(dtype),
        encoder_hidden_states=data["in.y"][:, 0].to(dtype),
        encoder_attention_mask=data["in.mask"],
        frame_mask=data.get("in.x_mask"),
        fps=data["in.fps"].to(dtype),
        height=data["in.height"][0].item(),
        width=data["in.width"][0].item(),
    )


def inputs(batch: int = 2, frames: int = 3, height: int = 6, width: int = 8, text: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return dict(
        hidden_states=torch.randn(batch, 4, frames, height, width, generator=generator),
        timestep=torch.linspace(900, 100, batch),
        encoder_hidden_states=torch.randn(batch, text, CAPTION_CHANNELS, generator=generator),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_output_is_the_official_one(case, dtype, reference, reference_transformer) -> None:
    data = reference(f"stdit3_{case}")
    output = reference_transformer(dtype)(**arguments(data, dtype)).sample
    name = "f32.output" if dtype is torch.float32 else "f64.output"
    assert distance(output, data[name]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["xmask", "odd"])
def test_every_module_is_the_official_one(case, dtype, reference, reference_transformer) -> None:
    data = reference(f"stdit3_{case}")
    model = reference_transformer(dtype)
    seen = {}
    for stack in ("spatial_blocks", "temporal_blocks"):
        for layer, block in enumerate(getattr(model, stack)):
            for name, module in (("", block), (".attn", block.attn1), (".cross_attn", block.attn2), (".mlp", block.ff)):
                module.register_forward_hook(
                    lambda _module, _inputs, output, key=f"{stack}.{layer}{name}": seen.__setitem__(key, output)
                )
    model(**arguments(data, dtype))
    prefix = "f32." if dtype is torch.float32 else "f64."
    assert len(seen) == 16
    for key, output in seen.items():
        assert distance(output, data[prefix + key]) < TOLERANCE[dtype], key


@pytest.mark.parametrize("case", ["plain", "xmask"])
def test_embedders_are_the_official_ones(case, reference, reference_transformer) -> None:
    data = reference(f"stdit3_{case}")
    model = reference_transformer(torch.float32)
    time_embedding = model.time_embed(model._sinusoid(data["in.timestep"]))
    rate = model.fps_embed(model._sinusoid(data["in.fps"]))
    text = model.caption_projection(data["in.y"])
    assert distance(time_embedding, data["f32.t_embedder"]) < 5e-6
    assert distance(rate, data["f32.fps_embedder"]) < 5e-6
    assert distance(text, data["f32.y_embedder"]) < 5e-6
    assert distance(model._modulation(time_embedding + rate).flatten(1), data["f32.t_block"]) < 5e-6
    if case == "xmask":
        clean = model.time_embed(model._sinusoid(torch.zeros(2)))
        assert distance(clean, data["f32.t_embedder_t0"]) < 5e-6
        assert distance(model._modulation(clean + rate).flatten(1), data["f32.t_block_t0"]) < 5e-6


@pytest.mark.parametrize("case", CASES)
def test_positions_are_the_official_ones(case, reference) -> None:
    data = reference(f"stdit3_{case}")
    rows, columns = (-(-side // 2) for side in data["in.x"].shape[-2:])
    for dtype, name, tolerance in ((torch.float32, "f32", 5e-6), (torch.float64, "f64", 1e-6)):
        ours = patch_positions(
            (rows, columns), data["in.height"][0].item(), data["in.width"][0].item(), 64, dtype=dtype
        )
        assert distance(ours, data[f"{name}.pos_embed"]) < tolerance


def test_full_width_embeddings_are_the_official_ones(reference, reference_transformer) -> None:
    data = reference("stdit3_xl2_embeddings")
    positions = patch_positions((30, 53), 480, 854, 1152)[0]
    assert distance(positions[data["rows"]], data["pos_embed_480p_rows"]) < 1e-6
    sinusoids = reference_transformer(torch.float32)._sinusoid(data["timestep_in"])
    assert distance(sinusoids, data["timestep_embedding_256"]) < 1e-6


def test_bfloat16_tables_are_bit_exact(reference, reference_transformer) -> None:
    data = reference("stdit3_bf16_conventions")
    model = reference_transformer(torch.bfloat16)
    positions = patch_positions((6, 3), data["in.height"].item(), data["in.width"].item(), 64, dtype=torch.bfloat16)
    assert torch.equal(positions, data["bf16.pos_embed"])
    query = data["in.rope_q"].transpose(1, 2)
    turned = rotate(query, frame_rotary(17, 16, dtype=torch.bfloat16))
    assert torch.equal(turned.transpose(1, 2), data["bf16.rope_out"])
    assert torch.equal(rotate(query.float(), frame_rotary(17, 16)).transpose(1, 2), data["f32.rope_out"])
    assert torch.equal(model.time_embed(model._sinusoid(data["in.timestep"])), data["bf16.t_embedder"])
    assert torch.equal(model.fps_embed(model._sinusoid(data["in.fps"])), data["bf16.fps_embedder"])
    output = model(**arguments(data, torch.bfloat16)).sample
    assert output.dtype == torch.float32
    assert distance(output, data["bf16.output"]) < 5e-2


def test_a_model_loaded_in_bfloat16_is_one_cast_to_bfloat16(tmp_path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = OpenSoraTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert torch.equal(loaded(**inputs()).sample, model.to(torch.bfloat16)(**inputs()).sample)


def test_a_saved_model_loads_with_its_null_caption(tmp_path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path)
    loaded = OpenSoraTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.null_caption, model.null_caption)
    assert torch.equal(loaded(**inputs()).sample, model(**inputs()).sample)


def test_a_mask_of_true_is_bit_equal_to_no_mask() -> None:
    model = tiny_transformer()
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(model(**inputs(), frame_mask=everything).sample, model(**inputs()).sample)


def test_without_a_mask_the_second_modulation_is_not_computed() -> None:
    model = tiny_transformer()
    calls = {"time_proj": 0, "norm_out": 0}
    for name in calls:
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model(**inputs())
    assert calls == {"time_proj": 1, "norm_out": 1}
    model(**inputs(), frame_mask=torch.ones(2, 3, dtype=torch.bool))
    assert calls == {"time_proj": 3, "norm_out": 3}


def test_clean_frames_do_not_see_the_timestep_in_their_modulation() -> None:
    model = tiny_transformer(num_layers=1)
    with torch.no_grad():  # frames see each other in attention only
        model.temporal_blocks[0].attn1.to_out[0].weight.zero_()
    mask = torch.tensor([[False, True, True]] * 2)
    first = model(**inputs(), frame_mask=mask).sample
    later = model(**(inputs() | {"timestep": torch.tensor([500.0, 20.0])}), frame_mask=mask).sample
    assert not torch.equal(first[:, :, 1:], later[:, :, 1:])
    # the final layer is the official one: clean frames are first modulated as noisy ones, so that they differ a little
    assert (first[:, :, 0] - later[:, :, 0]).abs().max() < (first[:, :, 1:] - later[:, :, 1:]).abs().max()


def test_padding_of_the_text_is_not_read() -> None:
    model = tiny_transformer()
    given = inputs(text=5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    masked = model(**given, encoder_attention_mask=mask).sample
    given["encoder_hidden_states"][0, 3:] = 100.0
    torch.testing.assert_close(model(**given, encoder_attention_mask=mask).sample, masked)
    alone = {name: value[:1] for name, value in given.items()}
    alone["encoder_hidden_states"] = alone["encoder_hidden_states"][:, :3]
    torch.testing.assert_close(model(**alone).sample, masked[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends_can_be_chosen(backend) -> None:
    model = tiny_transformer()
    plain = model(**inputs()).sample
    model.set_attention_backend(backend)
    try:
        chosen = {module.processor._attention_backend for module in model.modules() if hasattr(module, "processor")}
        assert chosen == {AttentionBackendName(backend)}
        torch.testing.assert_close(model(**inputs()).sample, plain, rtol=1e-4, atol=1e-5)
    finally:
        model.reset_attention_backend()
        tiny_transformer().set_attention_backend("native")  # the registry's default


def test_projections_can_be_fused_and_set_apart_again() -> None:
    model = tiny_transformer()
    plain, keys = model(**inputs()).sample, set(model.state_dict())
    model.fuse_qkv_projections()
    torch.testing.assert_close(model(**inputs()).sample, plain, rtol=1e-4, atol=1e-5)
    model.unfuse_qkv_projections()
    assert set(model.state_dict()) == keys
    assert torch.equal(model(**inputs()).sample, plain)


def test_blocks_are_named_for_regional_compilation_and_placement() -> None:
    model = tiny_transformer()
    repeated = [m for m in model.modules() if type(m).__name__ in model._repeated_blocks]
    assert len(repeated) == 4 and model._no_split_modules == model._repeated_blocks


@pytest.mark.slow
def test_blocks_compile_as_a_full_graph() -> None:
    model = tiny_transformer()
    plain = model(**inputs(), frame_mask=torch.tensor([[True, False, True]] * 2)).sample
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    compiled = model(**inputs(), frame_mask=torch.tensor([[True, False, True]] * 2)).sample
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


def test_conditions_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows of conditions do not divide a batch of 2"):
        tiny_transformer()(**inputs(), fps=torch.tensor([24.0, 24.0, 24.0]))


@pytest.mark.parametrize(
    ("config", "message"),
    [(dict(qk_norm="layer_norm"), "'rms_norm' or None"), (dict(attention_head_dim=7), "must be even")],
)
def test_impossible_configurations_are_refused(config, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_transformer(**config)
