import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dita import miniature
from dita.metrics.catalogue import METRICS
from dita.networks import PLACES, Networks, bundled_features
from tests.metrics.tiny_networks import save_tiny_dino, save_tiny_reward


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    """No environment variable, no cache, no bundled evaluator."""
    for place in PLACES.values():
        monkeypatch.delenv(place.variable, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch-hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    bundle(monkeypatch, {})


def bundle(monkeypatch, folders):
    def folder(name):
        if name not in folders:
            raise ValueError(f"no bundled model is named {name!r}")
        return folders[name]

    monkeypatch.setattr(miniature, "folder", folder)


def test_every_network_that_a_metric_needs_has_a_place():
    assert {metric.needs for metric in METRICS.values()} - {"none"} == set(PLACES)


def test_a_network_that_is_nowhere_says_where_it_was_looked_for():
    with pytest.raises(ValueError) as error:
        Networks().locate([METRICS["fid"], METRICS["psnr"], METRICS["clip"]])
    message = str(error.value)
    assert (
        "fid: its network is nowhere: put 'pt_inception-2015-12-05-6726825d.pth' into the folder of --weights"
        in message
    )
    assert (
        "set DITA_INCEPTION" in message
        and "the bundled stand-in shapes-features is not in this installation" in message
    )
    assert "clip: " in message and "openai/clip-vit-large-patch14" in message and "psnr" not in message


def test_a_given_path_comes_before_the_weights_folder_the_environment_the_cache_and_the_bundle(monkeypatch, tmp_path):
    def found(**options):
        return Networks(**options).find("lpips")

    def touch(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return path

    name = "alexnet-owt-7be5be79.pth"
    cached = touch(tmp_path / "torch-hub" / "checkpoints" / name)
    assert (found().source, found().origin) == (str(cached), "cache")
    variable = touch(tmp_path / "mine.pth")
    monkeypatch.setenv("DITA_LPIPS_ALEX", str(variable))
    assert (found().source, found().origin) == (str(variable), "environment")
    inside = touch(tmp_path / "weights" / name)
    assert found(weights=tmp_path / "weights").source == str(inside)
    given = touch(tmp_path / "given.pth")
    assert found(weights=tmp_path / "weights", chosen={"lpips": str(given)}).source == str(given)


def test_hub_ids_are_used_from_the_cache_and_fetched_only_when_asked_for(monkeypatch):
    assert Networks(download=True).find("clip").origin == "hub"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cache/config.json")
    found = Networks().find("clip")
    assert (found.source, found.origin) == ("openai/clip-vit-large-patch14", "cache")
    assert Networks(chosen={"clip": "a/b"}).find("clip").source == "a/b"


def test_the_bundled_networks_serve_where_nothing_else_is_there(monkeypatch, golden, tmp_path):
    reward = save_tiny_reward(tmp_path / "reward", golden)
    dino = save_tiny_dino(tmp_path / "features")
    clip = golden / "metrics" / "clip_tiny"
    bundle(monkeypatch, {"shapes-clip": clip, "shapes-features": dino, "shapes-reward": reward})
    networks = Networks()
    networks.locate([METRICS[name] for name in ("fid", "clip", "cmmd", "image-reward")])
    assert networks.bundled == ["shapes-clip", "shapes-features", "shapes-reward"]
    assert "shapes-clip, shapes-features, shapes-reward" in networks.stand_ins()
    assert networks.features("inception").width == 24
    assert networks.features("cmmd").width == networks.clip().width == 24
    assert networks.clip("cmmd") is networks.clip("clip")
    assert networks.reward().model.sizes.image_size == 64


def test_a_weights_folder_serves_each_network_by_its_name(golden, tmp_path):
    weights = tmp_path / "weights"
    shutil.copytree(golden / "metrics" / "clip_tiny", weights / "clip")
    shutil.copytree(golden / "metrics" / "clip_tiny", weights / "PickScore_v1")
    (weights / "PickScore_v1" / "vocab.json").unlink()
    (weights / "PickScore_v1" / "merges.txt").unlink()
    (weights / "PickScore_v1" / "tokenizer.json").unlink()
    save_tiny_dino(weights / "dinov2-large")
    save_tiny_reward(weights / "ImageReward", golden)
    networks = Networks(weights)
    networks.locate([METRICS[name] for name in ("clip", "pickscore", "fd-dinov2", "image-reward")])
    assert not networks.bundled
    assert networks.clip("pickscore").tokens(["a cat"]).truncated == 0  # with CLIP's tokenizer
    assert networks.features("dino").identity.network == "dinov2-large"
    assert networks.reward().name == "ImageReward"


def test_unknown_names_folders_and_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of weights"):
        Networks(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown network 'klip'; known: inception, clip"):
        Networks(chosen={"klip": "x"})
    with pytest.raises(ValueError, match="neither a file or folder nor a hub id"):
        Networks(chosen={"clip": "/no/such/folder here"}).find("clip")
    with pytest.raises(ValueError, match=r"--network inception is 'weights/mine\.pth', which is no file or folder"):
        Networks(chosen={"inception": "weights/mine.pth"}).find("inception")


def test_the_documentation_lists_every_metric_and_every_network_as_the_code_has_them():
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    for m in METRICS.values():
        assert f"| `{m.name}` | {m.kind} | {m.range} | {m.better} | {m.source} |" in text
    for name, place in PLACES.items():
        assert f"| `{name}` | {', '.join(f'`{n}`' for n in place.names)} | `{place.variable}` |" in text


def test_the_bundled_feature_network_of_dita_itself_takes_pictures_in_unit_range(monkeypatch, tmp_path):
    class Ours(torch.nn.Module):
        width = 3

        def forward(self, pictures):
            return pictures.mean(dim=(2, 3))

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    bundle(monkeypatch, {"shapes-features": tmp_path})
    monkeypatch.setattr(miniature, "load_features", lambda device: Ours(), raising=False)
    network = bundled_features("shapes-features")
    white = np.full((10, 30, 3), 255, np.uint8)
    assert network([white]).tolist() == [[1, 1, 1]]
    assert network.identity.resize == "squash 64 bicubic, PIL" and len(network.identity.weights) == 64
