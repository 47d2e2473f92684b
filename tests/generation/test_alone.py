import numpy as np
import pytest
import torch
from diffusers.models import activations
from torch import nn

import dita
from dita import miniature
from dita.generation import alone
from dita.generation.alone import samples_alone
from dita.generation.sampling import Sampler
from tests import tiny_dit, tiny_flux, tiny_pixart
from tests.generation.stand_in import pixels, some_items

FAMILIES = pytest.mark.parametrize("family", [tiny_flux, tiny_pixart, tiny_dit], ids=lambda family: family.FAMILY)
METHODS = pytest.mark.parametrize("method", ["plain", "fora:3", "toca:3:0.8", "toca:3:0.8:norm", "toca:3:0.8:random"])


@FAMILIES
@METHODS
def test_a_sample_in_a_batch_is_bit_equal_to_the_sample_alone(family, method):
    pipe = family.tiny_pipeline()
    dita.enable(pipe, method)
    with samples_alone(pipe):
        alone = [family.call(pipe, 1, first=i) for i in range(4)]
        for first, count in ((0, 4), (1, 3), (2, 2)):
            batch = family.call(pipe, count, first=first)
            for i, sample in enumerate(batch):
                assert torch.equal(sample, alone[first + i][0])


@FAMILIES
def test_it_changes_rounding_only_and_leaves_no_trace(family):
    pipe = family.tiny_pipeline()
    classes = {name: type(module) for name, module in pipe.transformer.named_modules()}
    before = family.call(pipe, 3)
    with samples_alone(pipe):
        alone = family.call(pipe, 3)
        assert list(pipe.transformer.state_dict()) == list(family.tiny_pipeline().transformer.state_dict())
    torch.testing.assert_close(alone, before, rtol=1e-3, atol=1e-3)
    assert torch.equal(family.call(pipe, 3), before)
    assert {name: type(module) for name, module in pipe.transformer.named_modules()} == classes


def test_modules_are_put_back_after_an_error():
    pipe = tiny_flux.tiny_pipeline()
    with pytest.raises(ZeroDivisionError), samples_alone(pipe):
        raise ZeroDivisionError
    assert type(pipe.transformer.x_embedder) is nn.Linear
    assert not hasattr(type(pipe.transformer.x_embedder), "_dita_base")


class Net:
    """What `samples_alone` asks of a pipeline."""

    def __init__(self, module):
        self.components = {"net": module}


def same_as_alone(module, x):
    """Whether every row of a batch comes out as it does by itself, bit by bit, and as without `samples_alone`."""
    with torch.no_grad():
        plain = [module(row) for row in x.split(1)]
        with samples_alone(Net(module)):
            batch = module(x)
            single = [module(row) for row in x.split(1)]
    assert all(torch.equal(one, other) for one, other in zip(plain, single, strict=True))
    assert batch.shape == module(x).shape
    return torch.equal(batch, torch.cat(single))


@pytest.mark.parametrize("shape", [(4, 24), (4, 6, 24), (3, 2, 5, 24), (4, 1, 24)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_a_batch_are_those_of_its_rows(shape, bias):
    torch.manual_seed(0)
    layer = nn.Linear(24, 17, bias=bias)
    assert same_as_alone(layer, torch.randn(shape))
    wide = torch.randn(*shape[:-1], 48)
    assert same_as_alone(layer, wide[..., :24]), "rows that are not contiguous"
    if len(shape) == 3:
        assert same_as_alone(layer, torch.randn(shape[0], 24, shape[1]).transpose(1, 2))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 7, 128), (2, 128), (4, 32, 128)], ids=str)
def test_sizes_whose_products_depend_on_the_batch_are_found_out(shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        layer = nn.Linear(128, 96)
        assert same_as_alone(layer, x)
        with torch.no_grad():
            rows = torch.cat([layer(row) for row in x.split(1)])
            assert alone._agree(x, layer.weight, True) is torch.equal(layer(x), rows)
    finally:
        torch.set_num_threads(before)


def test_products_are_recorded_where_gradients_are():
    layer = nn.Linear(5, 3)
    with samples_alone(Net(layer)):
        layer(torch.randn(2, 5)).sum().backward()
    assert layer.weight.grad is not None


def test_other_kinds_of_linear_layers_multiply_in_their_own_way():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layer, x = Doubled(5, 3), torch.randn(2, 4, 5)
    with torch.no_grad(), samples_alone(Net(layer)):
        torch.testing.assert_close(layer(x), 2 * torch.nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("numbers", [64, 37, 40_000, 65_536 * 3])
@pytest.mark.parametrize(
    "function", [nn.SiLU(), nn.GELU(approximate="tanh"), nn.Sigmoid()], ids=lambda f: type(f).__name__
)
def test_functions_of_single_numbers_do_not_see_the_batch(function, numbers, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(4, numbers, generator=torch.Generator().manual_seed(1))
        assert same_as_alone(function, x)
        assert same_as_alone(activations.GELU(8, 16, approximate="tanh"), x[:, : 8 * (numbers // 8)].reshape(4, -1, 8))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["shapes-flux", "shapes-pixart"])
def test_pixels_of_a_bundled_model_do_not_depend_on_the_batch(model):
    try:
        pipe = miniature.load(model)
    except FileNotFoundError as error:  # a model that is not trained yet
        pytest.skip(str(error))
    call = {name: value for name, value in miniature.defaults(model).items() if name != "num_inference_steps"}
    some = some_items(3)
    made = [
        {one.id: pixels(one.picture) for one in Sampler(pipe, "toca:3:0.9", steps=4, call=call, batch_size=size)(order)}
        for size, order in ((1, some), (3, some), (2, some[::-1]))
    ]
    for one in made[1:]:
        assert all(np.array_equal(one[id], made[0][id]) for id in made[0])
