"""The features behind Frechet distances: the more damage, the farther."""

import numpy as np
import pytest
import torch

from dita import miniature
from dita.miniature import world
from training.alignment.damage import blur, noise
from training.judge.damages import DAMAGES


@pytest.fixture(scope="module")
def features():
    return miniature.load_features()


def embedded(features, pictures):
    return features(torch.from_numpy(np.ascontiguousarray(pictures)).movedim(-1, 1)).double().numpy()


def frechet(x, y):
    """Frechet distance of two sets of features (Heusel et al. 2017, equation 6), by the symmetric form."""
    (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(axis=0), np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_y @ root), 0, None)).sum()
    return float(np.square(mean_x - mean_y).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


@pytest.fixture(scope="module")
def scenes():
    return world.scenes(400, 31, split="held-out")


@pytest.fixture(scope="module")
def clean(features, scenes):
    return embedded(features, world.draw_all(scenes))


LEVELS = {"blur": (blur, (0.6, 1.2, 2.4)), "noise": (noise, (8, 24, 72))}


@pytest.mark.parametrize("name", LEVELS)
def test_blur_and_noise_raise_the_distance_step_by_step(features, scenes, clean, name):
    damage, levels = LEVELS[name]
    rng, whole = np.random.default_rng(0), world.draw_all(scenes)
    far = [
        frechet(clean, embedded(features, np.stack([damage(rng, picture, level, level) for picture in whole])))
        for level in levels
    ]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("name", ["an object is missing", "a shape of no name"])
def test_the_more_pictures_are_damaged_the_farther(features, clean, scenes, name):
    kinds, _, damage = DAMAGES[name]
    rng = np.random.default_rng(0)
    fit = [i for i, scene in enumerate(scenes) if scene.kind in kinds]
    far = []
    for share in (0.25, 0.5, 1.0):
        pictures = world.draw_all(scenes)
        for i in fit[: int(share * len(fit))]:
            pictures[i] = damage(rng, scenes[i])
        far.append(frechet(clean, embedded(features, pictures)))
    assert 0 < far[0] < far[1] < far[2]


def test_other_drawings_of_the_world_are_nearer_than_badly_blurred_ones(features, clean, scenes):
    others = frechet(clean, embedded(features, world.pictures(400, 32, split="held-out")[0]))
    rng = np.random.default_rng(0)
    blurred = np.stack([blur(rng, picture, 2.4, 2.4) for picture in world.draw_all(scenes)])
    assert others < frechet(clean, embedded(features, blurred))


def test_256_numbers_a_picture_whatever_the_batch_the_type_and_the_size(features):
    pictures = torch.from_numpy(world.pictures(5, 0)[0]).movedim(-1, 1)
    found = features(pictures)
    assert found.shape == (5, 256) == (5, features.width) and found.dtype == torch.float32
    assert torch.allclose(features(pictures[2:3]), found[2:3], atol=1e-4)
    assert torch.allclose(features(pictures.float() / 255), found, atol=1e-5)
    double = pictures.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.nn.functional.cosine_similarity(features(double), found).min() > 0.98


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 64, 64, 3)])
def test_other_shapes_are_refused(features, shape):
    with pytest.raises(ValueError, match=r"pictures must be \(N, 3, H, W\)"):
        features(torch.zeros(shape))
