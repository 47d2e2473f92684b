import numpy as np
import pytest
import torch

from dita.metrics.features import Identity
from dita.metrics.frechet import FeatureStatistics
from dita.metrics.statistics_file import (
    count_pictures,
    picture_size,
    read_pictures,
    read_statistics,
    write_pictures,
    write_statistics,
)

NETWORK = Identity("inception-2015-12-05", "ab" * 32, "tensorflow")


def pictures(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)


def test_statistics_come_back_with_their_count_and_identity(tmp_path):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    write_statistics(tmp_path / "s.npz", FeatureStatistics.of(x), NETWORK)
    found = read_statistics(tmp_path / "s.npz")
    assert found.identity == NETWORK
    assert found.statistics.count == 40
    again = FeatureStatistics.of(x)
    torch.testing.assert_close(found.statistics.covariance, again.covariance)
    torch.testing.assert_close((found.statistics + again).covariance, (again + again).covariance)


def test_others_read_mu_and_sigma_of_the_file(tmp_path):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double()
    write_statistics(tmp_path / "s.npz", FeatureStatistics.of(x), NETWORK)
    with np.load(tmp_path / "s.npz") as file:
        np.testing.assert_allclose(file["mu"], x.numpy().mean(0))
        np.testing.assert_allclose(file["sigma"], np.cov(x.numpy(), rowvar=False))


def test_files_of_pytorch_fid_and_of_adm_are_read_without_an_identity(tmp_path):
    mu, sigma = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)
    np.savez(tmp_path / "fid.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", arr_0=pictures(), mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)
    for name in ("fid.npz", "adm.npz"):
        found = read_statistics(tmp_path / name)
        assert found.identity is None and found.statistics.count is None
        assert found.statistics.covariance.dtype == torch.float64


def test_a_sample_batch_of_adm_is_pictures_and_no_statistics(tmp_path):
    np.savez(tmp_path / "batch.npz", arr_0=pictures())
    assert read_statistics(tmp_path / "batch.npz") is None
    assert count_pictures(tmp_path / "batch.npz") == 5
    assert picture_size(tmp_path / "batch.npz") == (6, 8)
    assert np.array_equal(list(read_pictures(tmp_path / "batch.npz")), pictures())


def test_pictures_are_written_as_adm_reads_them_compressed_or_not(tmp_path):
    write_pictures(tmp_path / "batch.npz", iter(pictures()), 5)
    with np.load(tmp_path / "batch.npz") as file:
        assert np.array_equal(file["arr_0"], pictures())
    np.savez_compressed(tmp_path / "small.npz", arr_0=pictures())
    assert np.array_equal(list(read_pictures(tmp_path / "small.npz")), pictures())


def test_mixed_sizes_and_a_wrong_count_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="of one size"):
        write_pictures(tmp_path / "a.npz", [pictures()[0], pictures()[0][:3]], 2)
    with pytest.raises(ValueError, match="there are 5 pictures, expected 7"):
        write_pictures(tmp_path / "b.npz", pictures(), 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"feats": np.zeros((3, 4))}, "holds feats; expected mu and sigma, or arr_0"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu \(3,\) and sigma \(4, 4\) do not fit"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN or infinity"),
        ({"mu": np.array([{"evil": 1}], dtype=object), "sigma": np.eye(1)}, "mu is damaged or holds objects"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "s.npz", **content)
    with pytest.raises(ValueError, match=message):
        read_statistics(tmp_path / "s.npz")


def test_files_that_are_no_npz_and_pictures_of_another_kind_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((2, 4, 4, 3)))
    with pytest.raises(FileNotFoundError, match="no statistics file"):
        read_statistics(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"is no \.npz file"):
        read_statistics(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="holds a single array"):
        read_statistics(tmp_path / "one.npy")
    with pytest.raises(ValueError, match=r"must be uint8 \(N, H, W, 3\), got float64"):
        count_pictures(tmp_path / "float.npz")
    with pytest.raises(ValueError, match="holds no pictures"):
        count_pictures(tmp_path / "text.npz")
