"""Compiled programs are kept where nobody has said otherwise."""

import logging

import jax
import pytest

from ntk_train.monitor.compiled import keep_compiled_programs


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """As far as this can see; what JAX is told is taken back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "ntk_train" / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_is_set_and_said(on_a_gpu, caplog):
    caplog.set_level(logging.INFO)
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(on_a_gpu)
    assert on_a_gpu.is_dir()
    assert str(on_a_gpu) in caplog.text


def test_a_folder_that_is_set_stays(on_a_gpu, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert not on_a_gpu.exists()


def test_a_cache_that_is_off_stays_off(on_a_gpu):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        keep_compiled_programs()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None
    assert not on_a_gpu.exists()


def test_a_folder_that_cannot_be_made_is_no_error(on_a_gpu, tmp_path, caplog):
    (tmp_path / "ntk_train").write_text("a file")
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "not kept" in caplog.text


def test_on_a_cpu_nothing_changes():
    before = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before
