"""Where a weight meets a value: products, convolutions, biases, scales, and weights as values."""

from tests.programs.ops.elementwise import SMOOTH
from tests.programs.ops.registry import operation
from tests.programs.writer import Value, Writer, tuple_of


def width(writer: Writer) -> int:
    return writer.choices.pick([2, 1, 3, 4, 5])


@operation(30)
def dense(writer: Writer):
    a = writer.real()
    same = writer.choices.chance(30)
    out = a.shape[-1] if same else width(writer)
    writer.let(f"{a.name} @ {writer.weight((a.shape[-1], out))}")
    if writer.choices.chance(40):
        writer.let(f"{writer.values[-1].name} + {writer.weight((out,))}")


@operation(8)
def dense_twice(writer: Writer):
    a = writer.real()
    w = writer.leaf((a.shape[-1], a.shape[-1]), tied=True)
    h = writer.let(f"{a.name} @ {w}")
    if writer.choices.chance(50):
        b = writer.leaf((a.shape[-1],), tied=True)
        h = writer.let(f"{h.name} + {b}")
        h = writer.let(writer.choices.pick(SMOOTH).format(h.name))
        writer.let(f"{h.name} @ {w} + {b}")
    else:
        h = writer.let(writer.choices.pick(SMOOTH).format(h.name))
        writer.let(f"{h.name} @ {w}")


@operation(10, native=False)
def dense_from_the_left(writer: Writer):
    a = writer.real()
    w = writer.weight((width(writer), a.shape[0]))
    writer.let(f"jnp.tensordot({w}, {a.name}, 1)")


@operation(15)
def einsum(writer: Writer):
    """Any axes contracted, kept as batch axes of the weight, or untouched; any order of axes."""
    a, choices = writer.real(), writer.choices
    labels = "abcdefg"[: a.ndim]
    roles = [choices.below(3) for _ in labels]  # contracted, batch, untouched
    own = "pq"[: choices.below(3)]
    of_weight = [v for v, role in zip(labels, roles) if role < 2] + list(own)
    shape = dict(zip(labels, a.shape)) | {"p": width(writer), "q": 2}
    out = [v for v, role in zip(labels, roles) if role > 0] + list(own)
    of_weight, out = _permuted(writer, of_weight), _permuted(writer, out)
    weight = writer.weight([shape[v] for v in of_weight])
    n = "n" if writer.native else ""
    operands = [(n + labels, a.name), ("".join(of_weight), weight)]
    if choices.chance(40):
        operands.reverse()
    subscripts = f"{operands[0][0]},{operands[1][0]}->{n}{''.join(out)}"
    writer.let(f"jnp.einsum('{subscripts}', {operands[0][1]}, {operands[1][1]})")


def _permuted(writer: Writer, items: list) -> list:
    rest, done = list(items), []
    while rest:
        done.append(rest.pop(writer.choices.below(len(rest))))
    return done


@operation(12)
def convolution(writer: Writer):
    a, choices = writer.real(2), writer.choices
    if a.ndim > 3:
        a = writer.let(writer.reshaped(a, (a.shape[0] * a.shape[1], *a.shape[2:])))
    if a.ndim > 3 or not a.size:
        a = writer.let(writer.fitted(a, (4, 2)))
    dims, channels = a.ndim - 1, a.shape[-1]
    groups = choices.pick([g for g in (1, 2, channels) if channels % g == 0])
    taps = [min(1 + choices.below(3), size) for size in a.shape[:-1]]
    kernel = (*taps, channels // groups, groups * (1 + choices.below(2)))
    per_dim = lambda options: tuple_of([choices.pick(options) for _ in range(dims)])
    options = [f"window_strides={per_dim([1, 1, 2])}"]
    options.append(f"padding={choices.pick([repr('SAME'), repr('VALID')])}")
    if choices.chance(40):
        options[-1] = f"padding={[(choices.below(3), choices.below(2)) for _ in range(dims)]}"
        options.append(f"lhs_dilation={per_dim([1, 2])}")
    if choices.chance(30):
        options.append(f"rhs_dilation={per_dim([1, 2])}")
    if groups > 1:
        writer.features.add("grouped convolution")
        options.append(f"feature_group_count={groups}")
    space = "HW"[-dims:]
    names = f"('N{space}C', '{space}IO', 'N{space}C')"
    before, after = ("", "") if writer.native else ("[None]", "[0]")
    writer.let(
        f"lax.conv_general_dilated({a.name}{before}, {writer.weight(kernel)}, "
        f"{', '.join(options)}, dimension_numbers={names}){after}"
    )


def _suffix(writer: Writer, a: Value) -> tuple[int, ...]:
    """Shape of a weight that broadcasts to a value: some axes absent or of size 1."""
    shape = a.shape[writer.choices.below(2 * a.ndim) % max(a.ndim, 1) :][-a.ndim :]
    if writer.choices.chance(60):
        shape = a.shape[-1:]
    if writer.choices.chance(20):
        shape = (1,) * len(shape)
    return shape


@operation(12)
def bias(writer: Writer):
    a = writer.real()
    w = writer.weight(_suffix(writer, a))
    patterns = ["{} + {}", "{} - {}", "{0} + {1} + {1}[::-1]", "{0} + {1} * {1}", "{1} + {0}"]
    writer.let(writer.choices.pick(patterns).format(a.name, w))


@operation(10)
def scale(writer: Writer):
    a = writer.real()
    w = writer.weight(_suffix(writer, a))
    patterns = ["{} * {}", "{} * {} + {}", "{} / (1.5 + {} ** 2)", "{0} * {1} + {1}", "{1} * {0}"]
    writer.let(writer.choices.pick(patterns).format(a.name, w, writer.weight(a.shape[-1:])))


@operation(8)
def layer_norm(writer: Writer):
    a = writer.real()
    n = a.shape[-1]
    g, b = writer.leaf((n,), tied=True), writer.leaf((n,), tied=True)
    h = writer.let(f"standardised({a.name}) * {g} + {b}")
    if writer.choices.chance(30):  # one norm, shared
        h = writer.let(writer.choices.pick(SMOOTH).format(h.name))
        writer.let(f"standardised({h.name}) * {g} + {b}")


@operation(6)
def attention(writer: Writer):
    a = writer.real(2)
    n, d = a.shape[-1], width(writer)
    q, k, v = (writer.let(f"{a.name} @ {writer.weight((n, d))}") for _ in range(3))
    scores = f"{q.name} @ jnp.swapaxes({k.name}, -1, -2)"
    writer.let(f"jax.nn.softmax({scores}, -1) @ {v.name}")


@operation(10, native=False)
def parameter(writer: Writer):
    """A weight as a value that no input has entered."""
    a = writer.real()
    shape = a.shape if writer.choices.chance(50) else (width(writer),)
    writer.let(f"1.0 * {writer.weight(shape)}")


@operation(4, native=False)
def integer_leaf(writer: Writer):
    """A leaf that is not differentiated, as a number or as an index."""
    a = writer.real()
    if writer.choices.chance(50):
        writer.let(f"{a.name} * {writer.leaf((), tied=True, dtype='int32')}")
    else:
        index = writer.leaf((), tied=True, dtype=writer.choices.pick(["int32", "uint8"]))
        writer.let(f"{a.name}[{index}]" if a.shape[0] else f"{a.name} * {index}")


@operation(12)
def bottleneck(writer: Writer):
    """Everything through 1 to 3 numbers, and what came before is most often out of sight."""
    a = writer.real()
    flat = writer.let(writer.reshaped(a, (a.size,))) if a.ndim > 1 else a
    h = writer.let(f"{flat.name} @ {writer.weight((flat.size, 1 + writer.choices.below(3)))}")
    if writer.choices.chance(50):
        h = writer.let(writer.choices.pick(SMOOTH).format(h.name))
    sealed = writer.choices.chance(70) and not writer.outer
    wide = 4 + writer.choices.below(9)
    how = writer.choices.below(4)
    if how in (0, 3):
        out = writer.let(f"{h.name} @ {writer.weight((h.size, wide))}")
    elif how == 1:
        out = writer.let(f"jnp.concatenate([jnp.sin({h.name}), {h.name}, {h.name} ** 2], -1)")
    else:
        out = writer.let(f"resized({h.name}, ({wide},){', True' if writer.native else ''})")
    if sealed:
        writer.features.add("sealed bottleneck")
        writer.values[:] = [v for v in writer.values if v.name in (h.name, out.name)][-2:]
