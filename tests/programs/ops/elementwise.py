"""What works entry by entry, on one value or on two."""

from tests.programs.ops.registry import operation
from tests.programs.writer import Writer

SMOOTH = [
    "jnp.tanh({})",
    "jnp.sin({})",
    "jnp.maximum({}, 0.0)",
    "(0.5 * {})",
    "({0} * {0})",
    "jnp.logaddexp({0}, -{0})",
    "jax.nn.softplus({})",
    "jax.nn.gelu({})",
    "jnp.exp(-{0} * {0})",
    "jnp.sqrt(1.0 + {0} * {0})",
    "jnp.abs({})",
    "jax.nn.sigmoid({})",
    "jnp.clip({}, -0.5, 0.7)",
    "-{}",
    "({} + 0.5)",
    "(1.0 / (1.5 + {0} * {0}))",
    "jnp.where({0} > 0.0, {0}, 0.1 * {0})",
]
ALONG_LAST = [
    "jax.nn.softmax({}, -1)",
    "jax.nn.log_softmax({}, -1)",
    "standardised({})",
    "jnp.cumsum({}, -1)",
    "jnp.sort({}, -1)",
    "({0} - {0}.mean(-1, keepdims=True))",
    "({0} / jnp.sqrt(({0} * {0}).sum(-1, keepdims=True) + 0.1))",
    "lax.cummax({0}, {0}.ndim - 1)",
    "jnp.where({0} > {0}.mean(-1, keepdims=True), {0}, 0.0)",
]


def function(writer: Writer) -> str:
    """A pattern of a function of one float with at least one axis."""
    return writer.choices.pick(SMOOTH if writer.choices.below(3) < 2 else ALONG_LAST)


@operation(30)
def nonlinearity(writer: Writer):
    writer.let(function(writer).format(writer.real().name))


@operation(12)
def residual(writer: Writer):
    a = writer.real()
    patterns = ["{} + {}", "{} - {}", "{} + 0.5 * {}", "{} * {}"]
    writer.let(writer.choices.pick(patterns).format(a.name, function(writer).format(a.name)))


TWO = [
    "{} + {}",
    "{} - {}",
    "{} * {}",
    "{} + 2.0 * {}",
    "{} + jnp.tanh({})",
    "{} * jax.nn.sigmoid({})",
    "jnp.maximum({}, {})",
    "jnp.where({1} > 0.0, {0}, {1})",
    "{0} / (1.0 + {1} * {1})",
    "{} + {}[..., ::-1]",
    "{} - jnp.cumsum({}, -1)",
    "jnp.logaddexp({}, {})",
    "jnp.hypot({}, 1.0 + {} ** 2)",
    "lax.mul({}, {})",
]


@operation(25)
def two_values(writer: Writer):
    a, b = writer.real(), writer.real()
    second = writer.fitted(b, a.shape)
    writer.let(writer.choices.pick(TWO).format(a.name, second))


@operation(10)
def joined(writer: Writer):
    a, b = writer.real(), writer.real()
    second = writer.fitted(b, a.shape)
    pattern = writer.choices.pick(
        [
            "jnp.concatenate([{}, {}], -1)",
            "jnp.stack([{}, {}], -1)",
            "jnp.concatenate([{0}] * 2, -1)",
        ]
    )
    writer.let(pattern.format(a.name, second))


@operation(8)
def product_of_values(writer: Writer):
    a, b = writer.real(2), writer.real()
    second = writer.fitted(b, a.shape)
    pattern = writer.choices.pick(
        [
            "{} @ jnp.swapaxes({}, -1, -2)",
            "jnp.swapaxes({}, -1, -2) @ {}",
            "jax.nn.softmax({0} @ jnp.swapaxes({1}, -1, -2), -1) @ {1}",
            "jnp.einsum('...ab,...cb->...ca', {}, {})",
        ]
    )
    writer.let(pattern.format(a.name, second))


@operation(4)
def stopped(writer: Writer):
    a = writer.real()
    patterns = [
        "lax.stop_gradient({})",
        "{0} * lax.stop_gradient({0})",
        "{0} + lax.stop_gradient(jnp.tanh({0}))",
    ]
    writer.let(writer.choices.pick(patterns).format(a.name))


@operation(11)
def custom_rule(writer: Writer):
    a = writer.real()
    kind = writer.choices.below(3)
    if kind == 2 and a.size:
        out = 1 + writer.choices.below(3)
        writer.features.add("custom vjp")
        writer.let(f"product({a.name}, {writer.weight((a.shape[-1], out))})")
    elif kind == 1:
        writer.features.add("custom vjp")
        writer.let(f"rounded({a.name})")
    else:
        writer.features.add("custom jvp")
        writer.let(f"bent({a.name})")
