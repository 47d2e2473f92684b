import numpy as np
import pytest
import torch
from torch import nn

import dita
from dita import miniature
from dita.generation.alone import samples_alone
from dita.generation.sampling import Sampler
from tests import tiny_flux, tiny_pixart
from tests.generation.stand_in import pixels, some_items

FAMILIES = pytest.mark.parametrize("family", [tiny_flux, tiny_pixart], ids=lambda family: family.FAMILY)
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
