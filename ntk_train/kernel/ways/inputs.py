"""The products of the inputs x of a weight, which the Grams and `identity` have in common."""

import jax.numpy as jnp

from ntk_train.kernel.labelled import Labelled, distinct, labelled, product
from ntk_train.kernel.ways.way import ProductRows, Setting


def gram_of_inputs(setting: Setting, left: ProductRows, right: ProductRows) -> Labelled:
    """The product x x^T over a, with the labels n, m, r, t, s that are there.

    Those among r, t, s of size 1 are not, nor are n and m where examples are coupled; n and m may
    be one label. Each side has one member.

    Integers [n, r, t, 1] are the places of the ones in one-hot rows, -1 for a row of zeros.
    """
    problem, (n, m) = setting.problem, setting.problem.example_labels
    (x1,), (x2,) = left.x, right.x
    out = distinct(f"{n}{m}rts")
    if not jnp.issubdtype(x1.dtype, jnp.integer):
        sides = labelled(f"{n}rta", x1), labelled(f"{m}rsa", x2)
        return product(out, *sides, setting.stages.gram)
    i, j = x1[..., 0], x2[..., 0]  # [n, r, t], [m, r, s]
    if n != m:
        i, j = i[:, None], j[None, :]
    i, j = i[..., :, None], j[..., None, :]
    dtype = jnp.result_type(jnp.float32, *problem.theta)
    return labelled(out, ((i == j) & (i >= 0)).astype(dtype))
