"""Float64 for every test, so that errors are those of the method and not of rounding."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)

# Where XLA is told not to optimise, as by `make test`, compiling is most of the time, and without
# the emitters of fusions 40 % less of it. JAX 0.11 has no such flag any more. Without them XLA is
# wrong where an index of eight bits is scattered to (the oracle of `jacrev`, and so its tests, show
# it); `make test-all` runs as users do.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_backend_optimization_level=0" in _FLAGS and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_use_fusion_emitters=false"


@pytest.fixture
def without_type_checks():
    """Users have none: the checks of the library itself must do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def key():
    return jax.random.key(0)
