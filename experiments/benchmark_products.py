"""What is the fastest exact way to compute one product on a device?

The products that kernels are made of, in each arithmetic that `ntk_train.kernel.precision` chooses
from: those of a backward pass, of Jacobians that are formed, and of the Gram, which is a sum of
squares; and convolutions of a backward pass in the forms of `ntk_train.rules.convolution`. A row
for each: milliseconds (as in `benchmark_gpu`), TFLOP/s of what is to be computed, however many
terms that takes, the relative error ||Y - Y64|| / ||Y64||, and seconds to compile.

    python -m experiments.benchmark_products                       # 6 minutes on an H200
    python -m experiments.benchmark_products --smoke --out /tmp/smoke

The constants of `kernel/precision.py` and `rules/convolution.py` are read off this table.
"""

import argparse
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.measure import median_seconds
from experiments.record import RESULTS, merge_table
from ntk_train.kernel.precision import stages_of
from ntk_train.rules import convolution
from ntk_train.rules.arithmetic import Arithmetic, dot_general

TABLE = "benchmark_products"
KEY = ("product", "shape", "form", "device")
PRESETS = lax.DotAlgorithmPreset
FLOAT32 = Arithmetic(lax.Precision.HIGHEST)
DOTS = {  # [.., i, k] with [.., j, k]
    "ViT-S, first dense layer": ((3940, 384), (1536, 384)),
    "ViT-S, second dense layer": ((3940, 1536), (384, 1536)),
    "ViT-S, attention": ((120, 197, 64), (120, 197, 64)),
    "FCN 4096": ((512, 4096), (4096, 4096)),
    "CNN, Jacobian": ((64, 640, 1024), (64, 576, 1024)),
    "ResNet-50, Jacobian": ((2, 2560, 196), (2, 2304, 196)),
}
GRAMS = {"20 rows": (20, 1_000_000), "640 rows": (640, 36_864), "2000 rows": (2000, 100_000)}
CONVOLUTIONS = {  # batch, pixels, channels in and out, taps
    "20 x 56 px, 64": (20, 56, 64, 64, 3),
    "20 x 14 px, 256": (20, 14, 256, 256, 3),
    "20 x 7 px, 512": (20, 7, 512, 512, 3),
    "640 x 32 px, 64": (640, 32, 64, 64, 3),
    "20 x 28 px, 512 -> 128": (20, 28, 128, 512, 1),
    "2000 x 14 px, 256": (2000, 14, 256, 256, 3),
}
Row = dict[str, Any]


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Standard normal numbers in float32."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def dots(shapes: Mapping[str, Any]) -> Iterator[tuple[str, str, Callable, tuple, float, Any]]:
    """Products of a backward pass and of Jacobians."""
    forms = {
        "float32": FLOAT32,
        "TF32 x 3": Arithmetic(PRESETS.TF32_TF32_F32_X3),
        "TF32 x 3, up to 1536 terms": Arithmetic(PRESETS.TF32_TF32_F32_X3, 1536),
        "bfloat16 x 3": Arithmetic(PRESETS.BF16_BF16_F32_X3),
        "bfloat16 x 6": Arithmetic(PRESETS.BF16_BF16_F32_X6),
        "TF32": Arithmetic(lax.Precision.DEFAULT),
    }
    for name, (left, right) in shapes.items():
        batch = tuple(range(len(left) - 2))
        numbers = (((len(left) - 1,), (len(left) - 1,)), (batch, batch))
        arguments = normal(*left), normal(*right, seed=1)
        exact = _exact(functools.partial(_dot, numbers), *arguments)
        operations = 2.0 * math.prod(left) * right[-2]
        for form, arithmetic in forms.items():
            run = functools.partial(_dot, numbers, arithmetic=arithmetic)
            yield name, form, run, arguments, operations, exact


def _dot(numbers: Any, x: Any, y: Any, arithmetic: Arithmetic = FLOAT32) -> Any:
    return dot_general(x, y, numbers, arithmetic)


def grams(shapes: Mapping[str, Any]) -> Iterator[tuple[str, str, Callable, tuple, float, Any]]:
    """Products of rows with themselves."""
    forms = {
        "float32": FLOAT32,
        "float32, up to 2048 terms": Arithmetic(lax.Precision.HIGHEST, 2048),
        "TF32 x 3, up to 1024 terms": Arithmetic(PRESETS.TF32_TF32_F32_X3, 1024),
        "bfloat16 x 3": Arithmetic(PRESETS.BF16_BF16_F32_X3),
        "bfloat16 x 3, up to 1024 terms": Arithmetic(PRESETS.BF16_BF16_F32_X3, 1024),
        "TF32": Arithmetic(lax.Precision.DEFAULT),
    }
    numbers = (((1,), (1,)), ((), ()))
    for name, (rows, width) in shapes.items():
        x = normal(rows, width)
        exact = _exact(lambda x: _dot(numbers, x, x), x)
        for form, arithmetic in forms.items():

            def run(x: Any, arithmetic: Arithmetic = arithmetic) -> Any:
                return _dot(numbers, x, x, arithmetic)

            yield name, form, run, (x,), 2.0 * rows * rows * width, exact


def convolutions(
    shapes: Mapping[str, Any],
) -> Iterator[tuple[str, str, Callable, tuple, float, Any]]:
    """Derivatives of convolutions in their inputs."""
    forms: dict[str, Arithmetic | None] = {"as written": None}
    for name in ("highest", "float32", "split", "fast"):
        forms[name] = stages_of(name, "gpu", in_terms=True).backward
    for name, (batch, pixels, channels, features, taps) in shapes.items():
        x = jax.ShapeDtypeStruct((batch, pixels, pixels, channels), jnp.float32)
        w = normal(taps, taps, channels, features)
        g = normal(batch, pixels, pixels, features, seed=1)
        exact = _exact(functools.partial(_derivative, x.shape), g, w)
        operations = 2.0 * g.size * channels * taps * taps
        for form, arithmetic in forms.items():
            run = functools.partial(_derivative, x.shape, arithmetic=arithmetic)
            yield name, form, run, (g, w), operations, exact


def _derivative(
    shape: tuple[int, ...], g: Any, w: Any, arithmetic: Arithmetic | None = None
) -> Any:
    def convolve(x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=numbers, precision=lax.Precision.HIGHEST
        )

    transpose = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(shape, g.dtype))
    if arithmetic is None:
        return transpose(g)[0]
    closed = jax.make_jaxpr(transpose)(g)
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values[closed.jaxpr.invars[0]] = g
    for equation in closed.jaxpr.eqns:
        inputs = [values[v] for v in equation.invars]
        if equation.primitive is lax.conv_general_dilated_p:
            outputs = convolution.in_arithmetic(equation, inputs, arithmetic)
        else:
            outputs = [equation.primitive.bind(*inputs, **equation.params)]
        values.update(zip(equation.outvars, outputs, strict=True))
    return values[closed.jaxpr.outvars[0]]


def _exact(f: Callable, *arguments: jax.Array) -> np.ndarray:
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(each, np.float64)) for each in arguments]
        return np.asarray(jax.jit(f)(*wide))


def rows(kinds: Mapping[str, Iterator[tuple]], seconds: float) -> Iterator[Row]:
    """A row for each product and form, until time is up."""
    start, device = time.perf_counter(), jax.devices()[0].device_kind
    for kind, products in kinds.items():
        for name, form, run, arguments, operations, exact in products:
            if time.perf_counter() - start > seconds:
                return
            row: Row = {"product": kind, "shape": name, "form": form, "device": device}
            row |= dict.fromkeys(("milliseconds", "tflops", "relative_error", "compile_seconds"))
            row["note"] = ""
            try:
                before = time.perf_counter()
                compiled = jax.jit(run).lower(*arguments).compile()
                row["compile_seconds"] = f"{time.perf_counter() - before:.1f}"
                taken, _ = median_seconds(functools.partial(compiled, *arguments), 5, 0.01, 2.0)
                found = np.asarray(compiled(*arguments), np.float64)
                row["milliseconds"] = f"{1e3 * taken:.4g}"
                row["tflops"] = f"{operations / taken / 1e12:.3g}"
                error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
                row["relative_error"] = f"{error:.1e}"
            except Exception as error:  # an arithmetic that the device does not have
                row["note"] = str(error).splitlines()[0][:100]
            yield row


def main() -> None:
    """Measures, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1e9, help="what comes later is left out")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the table")
    parser.add_argument("--smoke", action="store_true", help="small products, to try the script")
    arguments = parser.parse_args()
    if arguments.smoke and arguments.out == RESULTS:
        parser.error("--smoke needs --out: its numbers are no results")
    kinds = {
        "convolution": convolutions(CONVOLUTIONS),
        "gram": grams(GRAMS),
        "dot": dots(DOTS),
    }
    if arguments.smoke:
        kinds = {
            "convolution": convolutions({"small": (2, 4, 8, 8, 3), "one tap": (2, 4, 8, 8, 1)}),
            "gram": grams({"small": (4, 4096)}),
            "dot": dots({"small": ((8, 16), (4, 16))}),
        }
    found: list[Row] = []
    for row in rows(kinds, arguments.seconds):
        print("  ".join(str(value) for value in row.values()), flush=True)
        found.append(row)
        merge_table(TABLE, found, KEY, arguments.out)


if __name__ == "__main__":
    main()
