"""Values rearranged, cut, repeated and summed."""

from tests.programs.ops.registry import operation
from tests.programs.writer import Writer


@operation(20)
def view(writer: Writer):
    a = writer.real()
    patterns = [
        "{}[..., ::-1]",
        "{}[..., :1]",
        "{}[..., 1:]",
        "{}[..., ::2]",
        "jnp.roll({}, 1, -1)",
        "jnp.concatenate([{0}[..., 1:], {0}[..., :1]], -1)",
        "jnp.repeat({}, 2, -1)",
        "{}[..., None]",
        "{}[..., None, :]",
        "{0} + jnp.zeros_like({0})",
        "lax.optimization_barrier({})",
    ]
    if a.ndim > 1:
        patterns += ["jnp.swapaxes({}, -1, -2)", "{}[..., 0, :]", "jnp.tril({})", "{}[..., 0]"]
    if not a.shape[-1]:
        patterns = ["{}[..., ::-1]", "{}[..., None]"]
    writer.let(writer.choices.pick(patterns).format(a.name))


@operation(10)
def reshape(writer: Writer):
    a, choices = writer.real(), writer.choices
    n = a.size
    shapes = [(n,)]
    shapes += [(n // k, k) for k in (2, 3) if n % k == 0]
    shapes += [(k, n // k) for k in (2, 3) if n % k == 0]
    shapes += [(2, n // 4, 2)] if n % 4 == 0 else [(1, n, 1)]
    writer.let(writer.reshaped(a, choices.pick(shapes)))


@operation(12)
def reduction(writer: Writer):
    a, choices = writer.real(), writer.choices
    axis = -1 - choices.below(a.ndim)
    name = choices.pick(["sum", "mean", "sum", "max", "prod", "var"])
    if not a.size and name in ("max", "mean", "var"):
        name = "sum"
    keep = ", keepdims=True" if choices.chance(40) else ""
    writer.let(f"{a.name}.{name}({axis}{keep})")


@operation(8)
def constant_gather(writer: Writer):
    """Entries of a value by constant numbers, some more than once."""
    a, choices = writer.real(), writer.choices
    if not a.shape[-1]:
        writer.let(f"{a.name}[..., None]")
        return
    numbers = [choices.below(a.shape[-1]) for _ in range(1 + choices.below(4))]
    writer.let(
        choices.pick(["{}[..., np.array({})]", "jnp.take({}, np.array({}), axis=-1)"]).format(
            a.name, numbers
        )
    )


@operation(8)
def scattered(writer: Writer):
    """Entries of a value written or added into others."""
    a, choices = writer.real(), writer.choices
    n = a.shape[-1]
    if not n:
        writer.let(f"2.0 * {a.name}")
        return
    i, j = choices.below(n), choices.below(n)
    patterns = [
        "{0}.at[..., {1}].add({0}[..., {2}])",
        "{0}.at[..., {1}].set(jnp.tanh({0}[..., {2}]))",
        "{0}.at[..., {1}].multiply(2.0)",
        "{0}.at[..., np.array([{1}, {2}])].add({0}[..., :1])",
        "jnp.pad({0}[..., {1}:], [(0, 0)] * ({0}.ndim - 1) + [(0, {1})])",
    ]
    writer.let(choices.pick(patterns).format(a.name, i, j))


@operation(5)
def linear_map(writer: Writer):
    """A constant matrix that mixes the entries of the last axis."""
    a = writer.real()
    n = a.shape[-1]
    writer.let(f"{a.name} @ np.cos(np.arange({3 * n}.0)).reshape({n}, 3)")


@operation(4)
def broadcast(writer: Writer):
    a = writer.real()
    k = 2 + writer.choices.below(2)
    writer.let(
        writer.choices.pick(
            [f"jnp.stack([{a.name}] * {k}, -1)", f"jnp.concatenate([{a.name}] * {k}, -1)"]
        )
    )


@operation(2)
def empty(writer: Writer):
    """A value without entries, and something that is summed over none."""
    a = writer.real()
    e = writer.let(f"{a.name}[..., :0]")
    how = writer.choices.below(3)
    if how == 0:
        writer.let(f"{e.name} @ {writer.weight((0, 2))}")
    elif how == 1:
        writer.let(f"jnp.concatenate([{e.name}, {a.name}], -1)")
