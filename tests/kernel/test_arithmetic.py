"""Products in another arithmetic, and in the forms that a GPU is fast at, are the same products.

A GPU's forms are taken here on a CPU, where each product is float32: what is tested is that terms,
pieces, patches and orders of axes come to the right numbers. How they round is measured by
experiments/benchmark_products.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ntk_train
from experiments import networks
from ntk_train._jax import inner_programs
from ntk_train.kernel.machine import MACHINES
from ntk_train.kernel.plan import Choices
from ntk_train.kernel.precision import (
    STAGED,
    bits_of_f,
    kernel_product_bits,
    precision_of_products,
    stages_of,
)
from ntk_train.program.evaluate import program_values
from ntk_train.program.rounding import NAMES
from ntk_train.rules import convolution
from ntk_train.rules.arithmetic import Arithmetic, dot_general
from tests import oracle
from tests.kernel.planned import kernel_of

HIGHEST = lax.Precision.HIGHEST


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("longest", [1, 5, 6, 7, 96, None])
@pytest.mark.parametrize(
    ("numbers", "x", "y"),
    [
        ((((1,), (1,)), ((), ())), (8, 24), (9, 24)),
        ((((2, 1), (1, 2)), ((0,), (0,))), (3, 4, 24, 5), (3, 24, 4, 7)),
        ((((0,), (2,)), ((2,), (1,))), (24, 5, 3), (6, 3, 24)),
        ((((1,), (1,)), ((), ())), (8, 23), (9, 23)),  # in as many pieces as there are terms
        ((((1,), (1,)), ((), ())), (8, 0), (9, 0)),
    ],
)
def test_a_sum_in_pieces(numbers, x, y, longest):
    x, y = normal(*x), normal(*y, seed=1)
    expected = lax.dot_general(x, y, numbers, precision=HIGHEST)
    found = dot_general(x, y, numbers, Arithmetic(HIGHEST, longest))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


LAST, FIRST = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")
CONVOLUTIONS = {
    "wide": (LAST, (2, 8, 8, 16), (3, 3, 16, 160), {"window_strides": (1, 1), "padding": "SAME"}),
    "channels first": (
        FIRST,
        (2, 16, 9, 8),
        (160, 16, 3, 3),
        {"window_strides": (2, 1), "padding": ((1, 2), (0, 1))},
    ),
    "one tap, strided": (
        LAST,
        (2, 8, 8, 16),
        (1, 1, 16, 24),
        {"window_strides": (2, 2), "padding": "VALID"},
    ),
    "one tap, dilated": (
        LAST,
        (2, 8, 8, 16),
        (1, 1, 16, 24),
        {"window_strides": (1, 1), "padding": ((1, -1), (0, 2)), "lhs_dilation": (2, 3)},
    ),
    "one tap, dilated and strided": (
        LAST,
        (2, 8, 8, 16),
        (1, 1, 16, 24),
        {"window_strides": (2, 1), "padding": ((1, -1), (0, 2)), "lhs_dilation": (3, 3)},
    ),
    "dilated": (
        LAST,
        (2, 8, 8, 16),
        (3, 2, 16, 24),
        {
            "window_strides": (1, 1),
            "padding": ((1, 1), (0, 2)),
            "lhs_dilation": (2, 3),
            "rhs_dilation": (1, 2),
        },
    ),
    "in groups": (
        LAST,
        (2, 8, 8, 16),
        (3, 3, 4, 24),
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4},
    ),
    "larger than its input": (
        LAST,
        (2, 2, 2, 16),
        (3, 3, 16, 160),
        {"window_strides": (1, 1), "padding": "VALID"},
    ),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(
    "arithmetic",
    [
        Arithmetic(HIGHEST),
        Arithmetic(HIGHEST, on_gpu=True),
        Arithmetic(HIGHEST, on_gpu=True, longest_in_terms=1000),
        Arithmetic(HIGHEST, on_gpu=True, longest=8),
        Arithmetic(HIGHEST, on_gpu=True, copies=10**9),
    ],
    ids=["as it is", "plain", "terms", "pieces", "many"],
)
def test_a_convolution_in_the_forms_of_a_gpu(name, arithmetic):
    numbers, x, w, options = CONVOLUTIONS[name]
    x, w = normal(*x), normal(*w, seed=1)

    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, dimension_numbers=numbers, precision=HIGHEST, **options
        )

    (equation,) = jax.make_jaxpr(convolve)(x, w).eqns
    (found,) = convolution.in_arithmetic(equation, [x, w], arithmetic)
    expected = convolve(x, w)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


def equations(jaxpr):
    """All equations of a jaxpr, those of bodies too."""
    for equation in jaxpr.eqns:
        yield equation
        for body in inner_programs(equation):
            yield from equations(body)


def products(jaxpr):
    """Precisions of all products in a jaxpr, those of bodies too."""
    for equation in equations(jaxpr):
        if equation.primitive is lax.dot_general_p:
            yield equation.params["precision"]


@pytest.mark.parametrize("kind", ["jit", "remat", "scan", "custom_jvp", "custom_vjp", "plain"])
def test_products_inside_of_calls_are_reached(kind):
    @jax.custom_jvp
    def jvp(x, w):
        return x @ w

    @jax.custom_vjp
    def vjp(x, w):
        return x @ w

    jvp.defjvp(lambda primals, tangents: (jvp(*primals), tangents[0] @ primals[1]))
    vjp.defvjp(lambda x, w: (x @ w, w), lambda w, g: (g @ w.T, w))
    calls = {
        "plain": lambda x, w: x @ w,
        "jit": jax.jit(lambda x, w: jnp.tanh(x @ w)),
        "remat": jax.checkpoint(lambda x, w: jnp.tanh(x @ w)),
        "scan": lambda x, w: lax.scan(lambda h, _: (jnp.tanh(h @ w), h.sum()), x, length=3)[0],
        "custom_jvp": jvp,
        "custom_vjp": vjp,
    }
    x, w = normal(4, 3), normal(3, 3, seed=1)
    with jax.default_matmul_precision("highest"):
        closed = jax.make_jaxpr(calls[kind])(x, w)
    preset = Arithmetic(lax.DotAlgorithmPreset.BF16_BF16_F32_X6)

    def evaluated(x, w):
        return program_values(closed.jaxpr, closed.consts, [x, w], preset)

    found = set(products(jax.make_jaxpr(evaluated)(x, w).jaxpr))
    assert found == {lax.DotAlgorithmPreset.BF16_BF16_F32_X6}
    np.testing.assert_allclose(evaluated(x, w)[0], calls[kind](x, w), rtol=1e-5)


def test_a_product_that_asks_for_less_is_left_alone():
    x = normal(4, 4)
    closed = jax.make_jaxpr(lambda x: jnp.matmul(x, x, precision="BF16_BF16_F32"))(x)
    other = Arithmetic(lax.DotAlgorithmPreset.BF16_BF16_F32_X6)
    evaluated = jax.make_jaxpr(lambda x: program_values(closed.jaxpr, [], [x], other))(x)
    # On a CPU such a product keeps all bits, so that it is taken for one in float32 there.
    expected = "BF16_BF16_F32_X6" if jax.default_backend() == "cpu" else "BF16_BF16_F32"
    assert {precision.name for precision in products(evaluated.jaxpr)} == {expected}


NETWORKS = {
    "fcn": lambda: networks.fcn(16, 3, 3),
    "cnn": lambda: networks.cnn(4, 2, 8, 2),
    "resnet": lambda: networks.resnet_tiny(2),
    "vit": lambda: networks.vit_tiny(2, 16),
}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *(
            (kind, name)
            for kind in ("fcn", "cnn")
            for name in ("float32", "fast", "BF16_BF16_F32_X3", None)
        ),
        *((kind, name) for kind in NETWORKS for name in ("highest", "split")),
    ],
)
def test_kernels_that_are_planned_for_a_gpu(kind, precision):
    network = NETWORKS[kind]()
    x1, x2 = network.inputs(2), network.inputs(3)[2:]
    machine = MACHINES["gpu"]._replace(copied_per_product=100, stacked=100)
    with jax.enable_x64(True):
        kernels = [
            oracle.kernel(network.f, network.params, x1, other, forward=False)
            for other in (None, x2)
        ]
    for other, exact in zip((None, x2), kernels, strict=True):
        for outputs in ("full", "trace") if kind in ("fcn", "cnn") else ("full",):
            kernel = functools.partial(
                kernel_of,
                Choices(machine=machine),
                network.f,
                outputs=outputs,
                precision=precision,
            )
            found = jax.jit(kernel)(network.params, x1, other)
            expected = exact if outputs == "full" else np.einsum("nomo->nm", exact)
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert error < 1e-5


@pytest.mark.parametrize("kind", ["cpu", "gpu", "tpu"])
def test_the_forward_pass_and_the_gram_of_staged_names_are_float32(kind):
    for name in (*STAGED, "highest"):
        forward, backward, jacobian, gram = stages_of(name, kind, in_terms=kind == "gpu")
        assert forward.precision in (None, HIGHEST)  # None as f is traced, with "highest"
        assert gram.precision == HIGHEST
        rounds = name in ("split", "fast") and kind != "cpu"
        assert (backward.precision in (None, HIGHEST)) == (not rounds and kind != "gpu") or (
            name == "highest"
        )
        assert jacobian.precision == backward.precision or backward.precision is None


@pytest.mark.parametrize(
    ("width", "in_terms"),
    [(512, True), (1024, False), (510, False)],  # 1024 terms are too long, rows of 510 not aligned
)
def test_a_sum_too_long_for_terms_is_in_float32(width, in_terms):
    terms = stages_of("float32", "gpu", in_terms=True).backward
    (own,) = _of_rows(normal(100, width), terms)
    preset = lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    assert own.params["precision"] == (preset if in_terms else (HIGHEST, HIGHEST))
    assert own.invars[0].aval.shape == (100, width)


@pytest.mark.parametrize(("rows", "longest"), [(2, 512), (64, 512), (65, 2048)])
def test_grams_of_few_rows_are_in_more_pieces(rows, longest):
    gram = stages_of("float32", "gpu", in_terms=True).gram
    (own,) = _of_rows(normal(rows, 8192), gram)
    assert own.invars[0].aval.shape == (rows, 8192 // longest, longest)


def _of_rows(x, arithmetic):
    """The equations of products in the product of rows with themselves."""
    closed = jax.make_jaxpr(lambda x: dot_general(x, x, (((1,), (1,)), ((), ())), arithmetic))(x)
    return [own for own in equations(closed.jaxpr) if own.primitive is lax.dot_general_p]


@functools.cache
def with_its_oracle(kind):
    network = NETWORKS[kind]()
    x = network.inputs(3)
    return network, x, oracle.kernel(network.f, network.params, x, forward=False)


@pytest.mark.parametrize("name", [*STAGED, *(name for name in NAMES if name not in STAGED), None])
@pytest.mark.parametrize(
    ("kind", "implementation"),
    [("fcn", "structured"), ("cnn", "structured"), ("fcn", "jacobian_contraction")],
)
def test_the_error_of_every_precision(kind, implementation, name):
    """On whatever JAX computes: run it on a GPU too."""
    network, x, exact = with_its_oracle(kind)
    kernel = functools.partial(
        ntk_train.ntk, network.f, implementation=implementation, precision=name
    )
    try:
        found = np.asarray(jax.jit(kernel)(network.params, x))
    except (ValueError, RuntimeError):  # an arithmetic that the device does not have
        if name in (*STAGED, "highest", "default", None):
            raise
        pytest.skip(f"not on {jax.default_backend()}: {name}")
    with precision_of_products(name):
        program = jax.make_jaxpr(functools.partial(network.f, network.params))(x).jaxpr
    bits = [23, bits_of_f(name, program, implementation), kernel_product_bits(name, found.dtype)]
    rounding = 2.0 ** -(min(b for b in bits if b is not None) + 1)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < 16 * rounding


@pytest.mark.parametrize("n", [3, 4])  # as many as outputs: axes in a wrong order have equal sizes
def test_half_grams_whose_labels_are_in_different_orders(n):
    def f(params, x):
        h = jnp.tanh(jnp.tanh(x @ params[0]) @ params[1])  # more features than positions, and fewer
        return (h @ params[2]).mean(axis=1)

    params = [normal(5, 8), normal(8, 3, seed=1), normal(3, 4, seed=2)]
    x1, x2 = normal(n, 6, 5), normal(4, 6, 5, seed=3)
    choices = Choices(machine=MACHINES["gpu"], ways=["half_gram"])
    for other in (None, x2):
        found = kernel_of(choices, f, params, x1, other)
        expected = oracle.kernel(f, params, x1, other)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("n", [1, 4])
def test_as_f_says_is_as_f_says_for_several_examples(kind, n):
    def f(w, x):
        h = jnp.matmul(x, w[0], precision=HIGHEST)
        return jnp.matmul(jnp.tanh(h), w[1], precision=HIGHEST)

    w, x = [normal(3, 5), normal(5, 2, seed=1)], normal(n, 3)
    choices = Choices(machine=MACHINES[kind], ways=["jacobian"])
    kernel = functools.partial(kernel_of, choices, f, precision=None)
    found = jax.make_jaxpr(kernel)(w, x).jaxpr
    # What says nothing is formed in no precision: the Jacobian of the first weight.
    assert list(products(found)).count(None) == 2


def test_the_forms_of_a_cpu_are_taken_for_several_examples():
    if jax.default_backend() != "cpu":
        pytest.skip("of a CPU")

    def f(w, x):
        y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=LAST)
        return jnp.tanh(y).mean(axis=(1, 2))

    jaxpr = jax.make_jaxpr(functools.partial(kernel_of, Choices(), f))
    assert "conv_general_dilated" not in str(jaxpr(normal(3, 3, 2, 4), normal(4, 4, 4, 2)))


def custom_jvp_of(call):
    own = jax.custom_jvp(call)
    own.defjvp(lambda x, t: (own(*x), 10.0 * jax.jvp(call, x, t)[1]))
    return own


def custom_vjp_of(call):
    own = jax.custom_vjp(call)
    own.defvjp(lambda *x: (own(*x), x), lambda x, g: jax.vjp(call, *x)[1](10.0 * g))
    return own


@pytest.mark.parametrize("custom", [custom_jvp_of, custom_vjp_of])
@pytest.mark.parametrize("is_closed_over", [True, False])
def test_a_kernel_is_differentiated_by_the_rules_of_f(custom, is_closed_over):
    a, w, x = normal(3, 4), normal(4, 2, seed=1), normal(2, 3, seed=2)
    call = custom((lambda x: jnp.tanh(x @ a)) if is_closed_over else lambda x, a: jnp.tanh(x @ a))

    def total(x, kind):
        f = lambda w, x: (call(x) if is_closed_over else call(x, a)) @ w
        return kernel_of(Choices(machine=MACHINES[kind]), f, w, x).sum()

    h, derivative = jax.vjp(lambda x: jnp.tanh(x @ a), x)
    expected = 10 * derivative(jnp.broadcast_to(4 * h.sum(axis=0), h.shape))[0]
    for kind in ("cpu", "gpu"):
        np.testing.assert_allclose(jax.grad(total)(x, kind), expected, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, None)])
def test_half_grams_without_examples(sizes):
    def f(w, x):
        return jnp.tanh(x @ w).mean(axis=1)

    x1, x2 = (None if size is None else normal(size, 2, 5) for size in sizes)
    choices = Choices(machine=MACHINES["gpu"], ways=["half_gram"])
    kernel = kernel_of(choices, f, normal(5, 3), x1, x2)
    assert kernel.shape == (sizes[0], 3, sizes[1] or 0, 3)


@pytest.mark.parametrize("heads", [1, 2])
def test_sums_of_a_jacobian_are_in_pieces_with_and_without_heads(heads):
    def f(w, x):
        return jnp.tanh(jnp.einsum("nhta,hab->nhtb", x, w)).sum(axis=(1, 2))

    longest = stages_of("split", "gpu").jacobian.longest
    w, x = normal(heads, 4, 5), normal(2, heads, 2 * longest, 4, seed=1)
    choices = Choices(machine=MACHINES["gpu"], ways=["jacobian"])
    kernel = functools.partial(kernel_of, choices, f, precision="split")
    presets = [
        equation.invars[0].aval.shape
        for equation in equations(jax.make_jaxpr(kernel)(w, x).jaxpr)
        if equation.primitive is lax.dot_general_p
        and equation.params["precision"] == lax.DotAlgorithmPreset.BF16_BF16_F32_X3
    ]
    assert presets
    assert all(2 * longest not in shape for shape in presets)
