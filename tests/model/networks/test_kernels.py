"""The compiled kernels are the formulas, on any memory and any number of threads, and refuse what does not fit."""

import numpy as np
import pytest
import torch
from alexprep.model.networks import kernels
from alexprep.model.networks.layers import ResponseNorm, WithinMapNorm, plain_norm, plain_within
from alexprep.model.training.optimizer import plain_update
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.sampled_from([1, 2]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_compiled_normalisation_is_the_formula_forward_and_back(seed, maps, towers, dtype, layout):
    generator = torch.Generator().manual_seed(seed)
    x, weight = ((torch.randn(3, maps * towers, 5, 4, generator=generator) * 40).to(dtype, memory_format=layout) for _ in range(2))
    assert kernels.takes(x, towers), "the extension is not there"

    check_passes(lambda x: plain_norm(x, towers, 1e-3, 2.0), ResponseNorm(alpha=1e-3, towers=towers), x, weight)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_compiled_normalisation_within_maps_is_the_formula_forward_and_back(seed, shape, dtype, layout):
    """Also for maps smaller than a window."""
    generator = torch.Generator().manual_seed(seed)
    x, weight = ((torch.randn(3, *shape, generator=generator) * 40).to(dtype, memory_format=layout) for _ in range(2))
    assert kernels.takes(x, 1), "the extension is not there"

    check_passes(lambda x: plain_within(x, 1e-3 / 25), WithinMapNorm(), x, weight)


def check_passes(formula, layer, x, weight):
    """Within 2e-6 (float32) or half a last place (bfloat16, whose sums are taken in float32) of the formula in float64."""
    dtype = x.dtype
    exact = x.double().requires_grad_()
    expected = formula(exact)
    (expected_grad,) = torch.autograd.grad(expected, exact, weight.double())
    x = x.clone().requires_grad_()
    result = layer(x)
    (grad,) = torch.autograd.grad(result, x, weight)

    assert (result.dtype, grad.dtype) == (dtype, dtype)
    bound = {"rtol": 2e-6, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 2e-6}
    assert torch.allclose(result.double(), expected, **bound)
    scale = float(expected_grad.abs().max())  # the gradient is a difference
    assert torch.allclose(grad.double() / scale, expected_grad / scale, **bound)


def test_the_compiled_normalisation_on_threads_is_that_of_one():
    x = torch.randn(8, 96, 27, 27) * 40
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append([kernels.normalise(x, 2, 1e-3, 2.0), kernels.normalise_within(x, 1e-3)])
    finally:
        torch.set_num_threads(threads)

    assert all(torch.equal(first, other) for others in results for first, other in zip(results[0], others, strict=True))


def test_a_normalisation_that_the_extension_does_not_take_is_torchs(monkeypatch):
    """No compiler, or more maps than it has room for."""
    x = (torch.randn(2, 8, 3, 3) * 40).requires_grad_()
    compiled = ResponseNorm(alpha=1e-3)(x)
    assert not kernels.takes(torch.zeros(1, 5000, 1, 1), 1)
    monkeypatch.setattr(kernels, "_kernels", None)
    assert torch.allclose(ResponseNorm(alpha=1e-3)(x), compiled, rtol=1e-6)


@pytest.mark.parametrize("maps", [0, -1, 4097])
def test_the_extension_refuses_buffers_that_do_not_fit(maps):
    x = np.ones(96, np.float32)

    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.normalise(x, None, x, maps, 1, 1e-4, 2.0, 0, 0, 1)
    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.normalise(x, None, x[1:], 96, 1, 1e-4, 2.0, 0, 0, 1)
    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.normalise(x, None, x, 96, 1, 1e-4, 2.0, 0, 0, 2)
    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.normalise_within(x, None, x, 1, 1, maps, 1e-4, 0, 0, 1)
    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.normalise_within(x, None, x, 1, 2, 48, 1e-4, 0, 1, 1)
    with pytest.raises(ValueError, match="do not fit"):
        kernels._kernels.update(x, x, x[1:], 0.9, 0.0, 0.1, 0, 95)


@pytest.mark.parametrize("shape", [(7,), (300, 301), (4, 3, 5, 5)])
def test_the_compiled_update_is_the_plain_one(shape):
    """To float32 rounding; several threads' shares, and memory in channels_last, too."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    weight, velocity, grad = (torch.randn(shape).to(memory_format=layout) for _ in range(3))
    plain = [[value.double()] for value in (weight, velocity, grad)]
    assert kernels.update(weight, velocity, grad, 0.9, 0.0005 * 0.01, 0.01), "the extension is not there"
    plain_update(*plain, 0.9, 0.0005 * 0.01, 0.01)

    assert torch.allclose(velocity.double(), plain[1][0], rtol=1e-6, atol=1e-6)
    assert torch.allclose(weight.double(), plain[0][0], rtol=1e-6, atol=1e-6)
    assert not kernels.update(weight.double(), velocity.double(), grad.double(), 0.9, 0.0, 0.01)
    assert not kernels.update(weight, velocity, grad[..., :1], 0.9, 0.0, 0.01)
