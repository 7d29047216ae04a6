"""Does the drop-in agree with neural-tangents 0.6.5?

Computes the kernels of `tests/kernel/neural_tangents_cases.py` with both libraries, for every
combination of axes and every implementation, in float64, and prints the largest relative
difference of each; fails above 1e-5. The peer's kernels are kept in
`tests/kernel/neural_tangents_0_6_5.npz`, against which the tests run without it.

    pip install --no-deps neural-tangents==0.6.5 frozendict
    python -m experiments.compare_neural_tangents --save

The peer was archived before the current releases of JAX and imports on none of them. With
`nt_shim.py`, a module that restores what it needs, on PYTHONPATH, it does. A CPU, 2 minutes.
Expected: 192 kernels of ours, the largest difference below 1e-14.
"""

import argparse
import importlib
import importlib.util
import sys

import jax
import numpy as np

import ntk_train
from experiments.record import ROOT, save_table
from tests.kernel import neural_tangents_cases as cases

KEPT = ROOT / "tests" / "kernel" / "neural_tangents_0_6_5.npz"
PEER_IMPLEMENTATIONS = (1, 2, 3)
OUR_IMPLEMENTATIONS = (0, 1, 2, 3)


def kernel(
    library: object, axes: str, vmap_axes: str, other: bool, implementation: int
) -> np.ndarray:
    """One kernel by one library."""
    x1, x2, params, kwargs = cases.arguments(vmap_axes, other)
    trace, diagonal = cases.AXES[axes]
    kernel_fn = library.empirical_ntk_fn(  # type: ignore[attr-defined]
        cases.network, trace, diagonal, cases.VMAP_AXES[vmap_axes], implementation=implementation
    )
    return np.asarray(jax.jit(kernel_fn)(x1, x2, params, **kwargs))


def main() -> None:
    """Compares, prints and keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="keep the kernels and the table")
    save = parser.parse_args().save
    jax.config.update("jax_enable_x64", True)
    if importlib.util.find_spec("nt_shim"):
        importlib.import_module("nt_shim")
    peer = importlib.import_module("neural_tangents")

    kept: dict[str, np.ndarray] = {}
    rows = []
    for axes, vmap_axes, other in cases.COMBINATIONS:
        name = f"{axes}-{vmap_axes}-{'x2' if other else 'x1'}"
        theirs = {i: kernel(peer, axes, vmap_axes, other, i) for i in PEER_IMPLEMENTATIONS}
        kept[name] = theirs[1]
        scale = np.abs(theirs[1]).max()
        spread = max(np.abs(theirs[i] - theirs[1]).max() for i in PEER_IMPLEMENTATIONS) / scale
        for ours in OUR_IMPLEMENTATIONS:
            got = kernel(ntk_train, axes, vmap_axes, other, ours)
            assert got.shape == theirs[1].shape, (name, got.shape, theirs[1].shape)
            error = np.abs(got - theirs[1]).max() / scale
            rows.append(
                (name, ours, "x".join(map(str, got.shape)), f"{error:.1e}", f"{spread:.1e}")
            )
            print(*rows[-1], flush=True)
            if not error < 1e-5:
                sys.exit(f"{name}: relative difference {error:.1e} with implementation {ours}")
    print(f"{len(rows)} kernels, largest difference {max(float(row[3]) for row in rows):.1e}")
    if save:
        np.savez_compressed(KEPT, **kept)  # type: ignore[arg-type]
        header = ["case", "implementation", "shape", "relative_difference", "spread_of_peer"]
        save_table("compare_neural_tangents", header, rows)


if __name__ == "__main__":
    main()
