"""Compiled programs kept between processes, so that the second photograph of a size starts at once."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

LARGEST = 2**30
"""Bytes of all programs; those that were not used for longest go."""

OFF = "HVAE_JAX_NO_COMPILE_CACHE"
"""An environment variable that says the same as --no-compile-cache, if it is not empty."""


def use_compile_cache(wanted: bool = True) -> None:
    """Let JAX keep its compiled programs in the user's cache folder, unless it has been told another one already.

    Args:
        wanted: whether to; `OFF` has the last word.
    """
    if not wanted or os.environ.get(OFF):
        return
    # JAX takes tuning hints that a program was compiled with for features that this processor lacks, and says so at
    # length; of another processor's programs there are none in the folder.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax
    import pooch

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    root = Path(os.environ.get("HVAE_JAX_CACHE") or pooch.os_cache("hvae_jax"))
    folder = root / f"compiled-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written is no reason not to restore
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """What machine code depends on, for machines of several kinds may share a home."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    known = [line for line in lines if line.startswith(("flags", "model name", "Features"))][:2]
    return hashlib.sha256("\n".join([platform.machine(), platform.processor(), *known]).encode()).hexdigest()[:12]
