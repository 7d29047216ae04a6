"""Complex values between real parameters and real outputs."""

from tests.programs.ops.registry import operation
from tests.programs.writer import Value, Writer

SMOOTH = [
    "jnp.sin({})",
    "jnp.log(jnp.cosh(0.5 * {}))",
    "jnp.exp(0.5j * {})",
    "({0} * {0})",
    "(1j * {})",
    "jnp.conj({})",
    "({0} / (2.0 + {0} * jnp.conj({0})))",
    "({0} * jnp.conj({0}))",
    "{}[..., ::-1]",
    "({0} + jnp.tanh(0.5 * {0}))",
]


def number(writer: Writer) -> Value:
    """A complex value with at least one axis: one that is there, or one made of floats."""
    found = writer.pick(lambda v: v.kind == "c" and v.ndim > 0)
    return made(writer) if found is None or writer.choices.chance(20) else found


def made(writer: Writer) -> Value:
    a, choices = writer.real(), writer.choices
    how = choices.below(6)
    if how == 0 or not a.size:
        return writer.let(f"lax.complex({a.name}, {writer.fitted(writer.real(), a.shape)})")
    if how == 1:
        return writer.let(f"jnp.fft.fft({a.name})")
    if how == 2:
        return writer.let(f"jnp.fft.rfft({a.name})")
    if how == 3:
        return writer.let(f"jnp.exp(1j * {a.name})")
    out = 1 + choices.below(3)
    return writer.let(f"{a.name} @ {writer.complex_weight((a.shape[-1], out))}")


@operation(12)
def to_complex(writer: Writer):
    made(writer)


@operation(10)
def complex_function(writer: Writer):
    writer.let(writer.choices.pick(SMOOTH).format(number(writer).name))


@operation(8)
def complex_dense(writer: Writer):
    a = number(writer)
    out = 1 + writer.choices.below(3)
    h = writer.let(f"{a.name} @ {writer.complex_weight((a.shape[-1], out))}")
    if writer.choices.chance(30):
        writer.let(f"{h.name} + {writer.complex_weight((out,))}")


@operation(6)
def complex_pair(writer: Writer):
    a, b = number(writer), number(writer)
    patterns = ["{} * {}", "{} + {}", "{} * jnp.conj({})", "{0} + 1j * {1}", "{} - {}[..., ::-1]"]
    writer.let(writer.choices.pick(patterns).format(a.name, writer.fitted(b, a.shape)))


@operation(14)
def to_real(writer: Writer):
    z = number(writer)
    patterns = [
        "jnp.concatenate([{0}.real, {0}.imag], -1)",
        "{}.real",
        "{}.imag",
        "({0} * jnp.conj({0})).real",
        "jnp.abs({0} * {0} + 2.0)",
        "jnp.log(jnp.cosh(0.5 * {})).real",
        "jnp.fft.irfft({})",
        "jnp.fft.ifft({}).real",
        "jnp.angle(2.0 + {})",
        "jnp.stack([{0}.imag, {0}.real], -1)",
    ]
    if not z.shape[-1]:
        patterns = patterns[:3]
    if z.shape[-1] == 1:
        patterns[6] = "jnp.fft.irfft({}, n=2)"
    writer.let(writer.choices.pick(patterns).format(z.name))


@operation(8)
def complex_bottleneck(writer: Writer):
    """Everything through 1 to 3 complex numbers."""
    a, choices = writer.real(), writer.choices
    flat = writer.let(writer.reshaped(a, (a.size,))) if a.ndim > 1 else a
    n = 1 + choices.below(3)
    h = writer.let(f"{flat.name} @ {writer.complex_weight((flat.size, n))}")
    if h.kind == "f":
        h = writer.let(f"jnp.exp(1j * {h.name})")
    h = writer.let(choices.pick(SMOOTH[:4]).format(h.name))
    if choices.chance(50):
        h = writer.let(f"{h.name} @ {writer.complex_weight((n, 1 + choices.below(4)))}")
    if choices.chance(60) and not writer.outer:
        writer.features.add("sealed complex bottleneck")
        writer.values[:] = [h]
