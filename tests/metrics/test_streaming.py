import multiprocessing

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="the streaming classes need torchmetrics: pip install 'dita[metrics]'")
from torchmetrics import MetricCollection

from dita.metrics import frechet_distance_of_features, kid, lpips, psnr, ssim, streaming, temporal_flicker
from dita.metrics.clip import load_clip
from dita.metrics.features import clip_features
from dita.metrics.lpips import LPIPSNetwork
from tests.metrics.test_image_reward import TINY
from tests.metrics.tiny_networks import tiny_features


def pictures(count, seed=0, size=(20, 24)):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def noisy(images, seed=1, amount=30):
    rng = np.random.default_rng(seed)
    return [np.clip(p + rng.normal(0, amount, p.shape), 0, 255).astype(np.uint8) for p in images]


def test_means_stream_to_those_of_the_pure_functions():
    made, plain = noisy(pictures(5)), pictures(5)
    for metric, function in ((streaming.PSNR(), psnr), (streaming.SSIM(), ssim)):
        metric.update(made[:2], plain[:2])
        metric.update(made[2:], plain[2:])
        expected = np.mean([function(a, b) for a, b in zip(made, plain, strict=True)])
        assert metric.compute().item() == pytest.approx(expected, rel=1e-12)


def test_reset_forgets():
    metric = streaming.SSIM()
    metric.update(noisy(pictures(2)), pictures(2))
    metric.reset()
    metric.update(pictures(2), pictures(2))
    assert metric.compute().item() == pytest.approx(1)


def test_identical_pairs_are_left_out_of_the_mean_and_counted_apart():
    plain = pictures(3)
    made = [plain[0], *noisy(plain[1:])]
    both = MetricCollection([streaming.PSNR(), streaming.IdenticalPairs()])
    both.update(made, plain)
    found = both.compute()
    assert found["IdenticalPairs"] == 1
    assert found["PSNR"].item() == pytest.approx(
        np.mean([psnr(a, b) for a, b in zip(made[1:], plain[1:], strict=True)])
    )
    both.reset()
    both.update(plain, plain)
    assert both.compute()["PSNR"] == torch.inf


def test_tensors_in_unit_range_and_uint8_arrays_give_one_value():
    made, plain = noisy(pictures(3)), pictures(3)
    tensors = [torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2) for x in (made, plain)]
    values = []
    for a, b in ((made, plain), tensors, [t.double() / 255 for t in tensors]):
        metric = streaming.PSNR()
        metric.update(a, b)
        values.append(metric.compute().item())
    assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_a_collection_computes_paired_metrics_together_and_forward_gives_the_batch_value():
    made, plain = noisy(pictures(4)), pictures(4)
    both = MetricCollection([streaming.PSNR(), streaming.SSIM(), streaming.ImageSimilarity(tiny_features())])
    first = both(made[:2], plain[:2])
    both(made[2:], plain[2:])
    assert first["SSIM"].item() == pytest.approx(
        np.mean([ssim(a, b) for a, b in zip(made[:2], plain[:2], strict=True)])
    )
    expected = np.mean([ssim(a, b) for a, b in zip(made, plain, strict=True)])
    assert both.compute()["SSIM"].item() == pytest.approx(expected)


def test_metrics_that_start_with_equal_values_do_not_share_a_state(golden):
    """CLIP score and HPSv2 / 100 agree until a cosine is negative; a collection merges states of equal names."""
    scorer = load_clip(golden / "metrics" / "clip_tiny")
    images = pictures(4, size=(32, 32))
    prompts = ["a cat", "", "the moon", "red"]
    both = MetricCollection([streaming.CLIPScore(scorer), streaming.PickScore(scorer), streaming.HPSv2(scorer)])
    for image, prompt in zip(images, prompts, strict=True):
        both.update([image], [prompt])
    cosine, _ = scorer.cosines(images, prompts)
    found = both.compute()
    assert found["CLIPScore"].item() == pytest.approx((100 * cosine.clamp(min=0)).mean().item(), rel=1e-5)
    assert found["HPSv2"].item() == pytest.approx(cosine.mean().item(), rel=1e-5)
    assert found["PickScore"].item() == pytest.approx(scorer.pick_score(cosine).mean().item(), rel=1e-5)


def test_truncated_prompts_are_counted(golden):
    from dita.metrics.image_reward import load_image_reward

    scorer = load_image_reward(golden / "metrics" / "imagereward_tiny", sizes=TINY)
    metric = streaming.ImageRewardScore(scorer)
    metric.update(pictures(2), ["a cat", "the cat " * 50])
    metric.update(pictures(1), ["the cat " * 50])
    assert metric.truncated == 2
    expected = scorer.rewards([*pictures(2), *pictures(1)], ["a cat", "the cat " * 50, "the cat " * 50])[0].mean()
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-5)


def test_frechet_and_kernel_distances_stream_to_those_of_all_features():
    network = tiny_features()
    real, made = pictures(30), noisy(pictures(20))
    for metric, function in (
        (streaming.FrechetDistance(network), frechet_distance_of_features),
        (streaming.KID(network), kid),
    ):
        for start in range(0, 30, 7):
            metric.update(real[start : start + 7], real=True)
        for start in range(0, 20, 9):
            metric.update(made[start : start + 9], real=False)
        assert metric.compute().item() == pytest.approx(function(network(made), network(real)), rel=1e-6)


def test_the_memory_of_a_frechet_distance_does_not_grow():
    metric = streaming.FrechetDistance(tiny_features())
    sizes = set()
    for seed in range(3):
        metric.update(pictures(5, seed), real=True)
        sizes.add(sum(state.numel() for state in metric.metric_state.values()))
    assert sizes == {2 * 7 * 7}


def test_cmmd_streams(golden):
    network = clip_features(load_clip(golden / "metrics" / "clip_tiny"))
    metric = streaming.CMMD(network)
    metric.update(pictures(4), real=True)
    metric.update(pictures(4), real=False)
    assert metric.compute().item() == pytest.approx(0, abs=1e-6)
    metric.update(noisy(pictures(3)), real=False)
    assert metric.compute() > 0


def test_too_few_pictures_are_refused_when_a_distance_is_computed():
    for kind in (streaming.FrechetDistance, streaming.KID):
        metric = kind(tiny_features())
        metric.update(pictures(1), real=True)
        with pytest.raises(ValueError, match="at least 2 pictures"):
            metric.compute()


def test_lpips_and_flicker_stream():
    network = LPIPSNetwork("alex").eval()
    made, plain = noisy(pictures(2, size=(40, 40))), pictures(2, size=(40, 40))
    metric = streaming.LPIPS(network)
    metric.update(made, plain)
    a, b = (torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float() / 255 for x in (made, plain))
    assert metric.compute().item() == pytest.approx(lpips.lpips(a, b, network).mean().item(), rel=1e-4)
    clips = [np.stack(pictures(4, seed)) for seed in range(2)]
    flicker = streaming.TemporalFlicker()
    flicker.update(clips)
    assert flicker.compute().item() == pytest.approx(np.mean([temporal_flicker(clip) for clip in clips]))


def test_other_counts_and_other_pictures_are_refused():
    with pytest.raises(ValueError, match="got 1 for 2"):
        streaming.PSNR().update(pictures(2), pictures(1))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(3, 4, 4\)"):
        streaming.PSNR().update(torch.zeros(3, 4, 4), torch.zeros(3, 4, 4))


def _process(rank, address, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    network = tiny_features()
    real, made = pictures(30), noisy(pictures(30))
    share = slice(0, 11) if rank == 0 else slice(11, 30)  # unequal shares
    metrics = {
        "frechet": streaming.FrechetDistance(network),
        "kid": streaming.KID(network),
        "psnr": streaming.PSNR(),
        "ssim": streaming.SSIM(),
    }
    for name, metric in metrics.items():
        if name in ("frechet", "kid"):
            metric.update(real[share], real=True)
            metric.update(made[share], real=False)
        else:
            metric.update(made[share], real[share])
    results.put({name: metric.compute().item() for name, metric in metrics.items()})
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_gloo_processes_give_the_single_process_value(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_process, args=(rank, tmp_path / "address", results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    network, real, made = tiny_features(), pictures(30), noisy(pictures(30))
    pairs = list(zip(made, real, strict=True))
    expected = {
        "frechet": frechet_distance_of_features(network(made), network(real)),
        "kid": kid(network(made), network(real)),
        "psnr": np.mean([psnr(a, b) for a, b in pairs]),
        "ssim": np.mean([ssim(a, b) for a, b in pairs]),
    }
    assert found[0] == pytest.approx(expected, rel=1e-6)
    assert found[1] == found[0]
