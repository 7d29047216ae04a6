"""Values and weights looked up by integers that come from the data."""

from tests.programs.ops.registry import operation
from tests.programs.writer import Value, Writer

DTYPES = ["int32", "int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64"]


def tokens(writer: Writer) -> Value:
    """Integers: an input, or numbers computed from a value."""
    found = writer.pick(lambda v: v.kind == "i")
    if found is not None and writer.choices.chance(90):
        return found
    a, dtype = writer.real(), writer.choices.pick(DTYPES)
    if not a.size:
        a = writer.let(writer.fitted(a, (2,)))
    patterns = [
        "jnp.argmax({}, -1).astype('{}')",
        "jnp.argsort({}, -1).astype('{}')",
        "({} > 0.0).astype('{}')",
        "jnp.floor(jnp.abs(2.0 * {})).astype('{}')",
    ]
    return writer.let(writer.choices.pick(patterns).format(a.name, dtype))


@operation(22)
def embedding(writer: Writer):
    t, choices = tokens(writer), writer.choices
    many = choices.pick([3, 3, 5, 4, 2, 130, 5, 300])
    shape = (many, 1 + choices.below(3)) if many < 100 else (many, 1)
    table = writer.weight(shape) if choices.chance(30) else writer.leaf(shape, tied=True)
    if many > 100:
        writer.features.add("table longer than a narrow index")
    patterns = [
        "{w}[{s}]",
        "jnp.take({w}, {t}, axis=0, mode='clip')",
        "jnp.take({w}, {t}, axis=0, mode='fill', fill_value=0.0)",
        "jnp.take({w}, {wide}, axis=0, mode='wrap')",
        "{w}.at[{s}].get(mode='fill', fill_value=0.0)",
        "{w}.at[{t}].get(mode='fill', fill_value=1.0, wrap_negative_indices=False)",
        "{w}.at[jnp.clip({s}, 0, {last})].get(mode='promise_in_bounds')",
        "jax.nn.one_hot({wide}, {n}) @ {w}",
        "jnp.take({w}.T, {t}, axis=1, mode='clip').sum(0)[..., None]",
        "{w}.at[{t}].get(mode='clip', wrap_negative_indices=False)",
    ]
    if writer.native:
        patterns[8] = patterns[0]
    # JAX itself refuses to wrap a negative index of a type in which the table's length has no room.
    wide = f"{t.name}.astype('int32')" if many > 100 else t.name
    safe = wide if writer.env[t.name].dtype == "int8" else t.name
    names = {"w": table, "t": t.name, "s": safe, "wide": wide, "n": many}
    writer.let(choices.pick(patterns).format(**names, last=min(many, 100) - 1))


@operation(5, native=False)
def lookup_of_values(writer: Writer):
    """Entries of a value by numbers from the data."""
    a, t, choices = writer.real(), tokens(writer), writer.choices
    if not a.shape[0]:
        writer.let(f"{a.name} * 2.0")
        return
    patterns = [
        "{a}[{t}]",
        "jnp.take({a}, {t}, axis=0, mode='clip')",
        "{a}.at[{t}].get(mode='fill', fill_value=0.0)",
        "{a}.at[{t}].add(1.0)",
        "lax.dynamic_index_in_dim({a}, {t}.ravel()[0] if {t}.size else 0, 0)",
    ]
    writer.let(choices.pick(patterns).format(a=a.name, t=t.name))


@operation(4, native=False)
def rows_of_a_weight(writer: Writer):
    """One matrix of a stack, chosen by the data, as in a mixture of experts."""
    a, t = writer.real(), tokens(writer)
    if not t.size:
        writer.let(f"{a.name} * 2.0")
        return
    w = writer.weight((3, a.shape[-1], 1 + writer.choices.below(2)))
    index = t.name if not t.ndim else f"{t.name}.ravel()[0]"
    patterns = ["{a} @ {w}[{i}]", "{a} @ lax.dynamic_index_in_dim({w}, {i}, 0, False)"]
    writer.let(writer.choices.pick(patterns).format(a=a.name, w=w, i=index))
