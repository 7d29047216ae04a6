"""The version, alone in its file so that the build reads it without an import of jax."""

__version__ = "0.1.0.dev0"
