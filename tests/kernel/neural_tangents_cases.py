"""What the drop-in is compared with neural-tangents on: a network, and combinations of axes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

AXES = {  # trace_axes, diagonal_axes, of outputs [N, 3, 3, 2]
    "default": ((-1,), ()),
    "full": ((), ()),
    "diagonal_logits": ((), (-1,)),
    "trace_and_diagonal": ((1,), (2,)),
    "trace_all_but_examples": ((1, 2, 3), ()),
    "trace_examples": ((0,), (3,)),
    "diagonal_examples": ((3,), (0,)),
    "diagonal_all": ((), (0, 1, 2, 3)),
}
VMAP_AXES = {"whole": None, "front": 0, "triple": (0, 0, {"scale": 0})}
COMBINATIONS = list(itertools.product(AXES, VMAP_AXES, [False, True]))


def network(params, x, scale=1.0):
    """A convolution and a dense layer: inputs [N, 3, 3, 2] to outputs [N, 3, 3, 2]."""
    scale = jnp.reshape(scale, (-1, 1, 1, 1))
    dimensions = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=dimensions)
    return scale * (jnp.tanh(h) @ params["v"])


def arguments(vmap_axes, other):
    """x1, x2, params and keyword arguments, the same on every machine; float64."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
    params = {"w": draw(3, 3, 2, 4), "v": draw(4, 2)}
    x1, x2 = draw(2, 3, 3, 2), draw(2, 3, 3, 2)
    kwargs = {"scale": jnp.array([0.5, 2.0])} if vmap_axes == "triple" else {}
    return x1, x2 if other else None, params, kwargs
