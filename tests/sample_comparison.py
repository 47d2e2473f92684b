from dita import report
from dita.compare import Comparison, MethodResult, Spread, Timing
from dita.metrics import Average

PROMPTS = ("a red circle", "a <b>bold</b> & blue | star")


def result(label, seconds, *, psnr=None, role="", cached=0):
    average = Average(psnr, psnr - 2, psnr + 2, 2) if psnr else None
    return MethodResult(
        label=label,
        role=role,
        method={"method": label.partition(":")[0]},
        step_kinds=("full",) * 9 + ("partial",) * cached,
        seconds_per_image=Spread(seconds, seconds * 0.9, seconds * 1.2, 4),
        speedup=Spread(1 / seconds, 0.9 / seconds, 1.1 / seconds, 4),
        tflops=0.05,
        tflops_scores=0.001,
        flops_ratio=2.5 if psnr else 1.0,
        token_share=0.1,
        cache_bytes=9_000_000 if cached else 0,
        seconds_by_kind={"full": 0.02},
        psnr=average,
        ssim=Average(0.9, 0.85, 0.95, 2) if psnr else None,
        psnr_each=(psnr, None) if psnr else (),
        ssim_each=(0.8, 1.0) if psnr else (),
        images=report.image_paths(label, 2),
        timings=(Timing(0, 0, 0, 2, seconds * 2),),
    )


def sample_comparison():
    results = (
        result("plain", 1.0, role="the reference"),
        result("steps:0.5", 0.5, psnr=18.0, role="fewer-steps baseline: 14 of 28"),
        result("toca:4:0.9", 0.4, psnr=27.0, cached=19),
    )
    machine = {"platform": "Linux", "processor": "a CPU", "cpus": 2, "threads": 2, "gpu": None}
    return Comparison(
        model="shapes-flux",
        prompts=PROMPTS,
        seeds=(0, 1),
        steps=28,
        batch=2,
        repeats=1,
        warmup=1,
        call={"guidance_scale": 4.0},
        dtype="float32",
        device="cpu",
        started="2026-01-01T00:00:00+00:00",
        versions={"dita": "0.1.0", "torch": "2.13.0"},
        machine=machine,
        results=results,
    )
