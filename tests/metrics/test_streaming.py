import multiprocessing
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("torchmetrics", reason="the streaming classes need torchmetrics: pip install 'dita[metrics]'")
from torchmetrics import MetricCollection

from dita.metrics import frechet_distance_of_features, kid, lpips, psnr, ssim, streaming, temporal_flicker
from dita.metrics.clip import load_clip
from dita.metrics.features import Identity, clip_features, module_features
from dita.metrics.images import Preparation
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


class Mirrored:
    """A scorer that gives `sign` / 10 for good texts, and less than 0 for others."""

    def __init__(self, sign):
        self.sign = sign

    def cosines(self, pictures, texts):
        return torch.tensor([self.sign * (0.1 if "good" in text else -0.1) for text in texts]), 0

    def rewards(self, pictures, texts):
        cosines, cut = self.cosines(pictures, texts)
        return cosines.clamp(min=0), cut


def scored(metric):
    """Two of one class, of which the first batch gives equal values, and the second others."""
    return metric(Mirrored(1)), metric(Mirrored(0.5)), [(pictures(1), ["bad"]), (pictures(1), ["good"])]


def distances(metric):
    """The same of distances: networks that tell black pictures from others in other ways."""
    networks = [module_features(Shaded(scale), 2, Preparation(4), Identity("same", "", "")) for scale in (1, 3)]
    black = [np.zeros((4, 4, 3), np.uint8)] * 2
    batches = [(black, True), (black, False), (pictures(3), True), (pictures(3, 1), False)]
    return metric(networks[0]), metric(networks[1]), batches


class Shaded(torch.nn.Module):
    """Two features of how far pixels are from black, times a number."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, pixels):
        darkest = pixels - Preparation(4)([np.zeros((4, 4, 3), np.uint8)])
        return self.scale * torch.stack([darkest.mean(dim=(1, 2, 3)), darkest[:, 0].mean(dim=(1, 2))], dim=1)


def paired(metric):
    """The same of networks that look at pairs: identical ones first."""
    plain = pictures(2, size=(40, 40))
    batches = [(plain, plain), (noisy(plain), plain)]
    if metric is streaming.LPIPS:
        torch.manual_seed(0)
        return metric(LPIPSNetwork("alex").eval()), metric(LPIPSNetwork("alex").eval()), batches
    return metric(tiny_features(seed=1)), metric(tiny_features(seed=2)), batches


def settings(metric):
    """The same of one network and another setting."""
    network = tiny_features()
    batches = [(pictures(3), True), (pictures(3), False), (noisy(pictures(4)), False)]
    return metric(network), metric(network, biased=False), batches


OF_ONE_CLASS = [
    (scored, streaming.CLIPScore),
    (scored, streaming.ImageRewardScore),
    (distances, streaming.FrechetDistance),
    (distances, streaming.KID),
    (distances, streaming.CMMD),
    (paired, streaming.LPIPS),
    (paired, streaming.ImageSimilarity),
    (settings, streaming.CMMD),
]


@pytest.mark.parametrize(("make", "metric"), OF_ONE_CLASS, ids=lambda value: value.__name__)
@pytest.mark.parametrize("how", ["as made", "cloned", "pickled", "reset", "moved"])
def test_metrics_of_one_class_in_one_collection_give_what_each_gives_alone(make, metric, how):
    first, second, batches = make(metric)
    alone = []
    for one in (first.clone(), second.clone()):
        for batch in batches:
            one.update(*batch)
        alone.append(one.compute().item())
    assert alone[0] != pytest.approx(alone[1], rel=1e-4)
    both = MetricCollection({"first": first, "second": second})
    if how == "cloned":
        both = both.clone()
    elif how == "pickled":
        both = pickle.loads(pickle.dumps(both))
    elif how == "reset":
        both.update(*batches[0])
        both.reset()
    elif how == "moved":
        both.to("cpu").set_dtype(torch.float64)
    for batch in batches:
        both.update(*batch)
    found = both.compute()
    assert [found["first"].item(), found["second"].item()] == pytest.approx(alone, rel=1e-5)
    assert len(both.compute_groups) == 2


def test_a_metric_and_its_copy_do_not_share_a_state():
    first = streaming.CLIPScore(Mirrored(1))
    second = first.clone()
    second.scorer = Mirrored(0.5)
    both = MetricCollection({"first": first, "second": second})
    for text in ("bad", "good"):
        both.update(pictures(1), [text])
    assert both.compute()["first"].item() == pytest.approx(5)
    assert both.compute()["second"].item() == pytest.approx(2.5)


def test_forward_keeps_metrics_of_one_class_apart():
    both = MetricCollection({"first": streaming.CLIPScore(Mirrored(1)), "second": streaming.CLIPScore(Mirrored(0.5))})
    assert both(pictures(1), ["bad"])["first"] == 0
    last = both(pictures(1), ["good"])
    assert [last[name].item() for name in ("first", "second")] == pytest.approx([10, 5])
    assert both.compute()["second"].item() == pytest.approx(2.5)


@pytest.mark.parametrize("given", ["metric", "state"])
def test_states_merge_into_one(given):
    whole, one, other = (streaming.FrechetDistance(tiny_features()) for _ in range(3))
    real, made = pictures(8), noisy(pictures(8))
    for metric, share in ((whole, slice(0, 8)), (one, slice(0, 3)), (other, slice(3, 8))):
        metric.update(real[share], real=True)
        metric.update(made[share], real=False)
    mark = one.mark.clone()
    one.merge_state(other if given == "metric" else other.metric_state)
    assert one.compute().item() == pytest.approx(whole.compute().item(), rel=1e-9)
    assert torch.equal(one.mark, mark)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_saved_state_holds_what_was_taken_in_and_loads_into_another_metric():
    metric, other = streaming.PSNR(), streaming.PSNR()
    metric.persistent(True)
    metric.update(noisy(pictures(2)), pictures(2))
    assert set(metric.state_dict()) == set(metric.metric_state) == {"total", "count", "infinite"}
    other.load_state_dict(metric.state_dict())
    assert other.compute() == metric.compute()
    assert not torch.equal(other.mark, metric.mark)
