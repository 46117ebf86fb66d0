"""Fixtures and hooks; functions that tests import are in `helpers`."""

import ctypes
import gc
import os
import pathlib
import sys

# Nearly all of the tests' time is compiling, of which this saves a third. Set it empty to test what users run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# What is compiled is counted; and no test writes to the user's folders.
os.environ.setdefault("HVAE_JAX_NO_COMPILE_CACHE", "1")

import jax
import numpy as np
import pytest

from hvae_jax.prior import Prior
from tests.helpers import TINY_SETTINGS, random_prior, tiny_config


def pytest_addoption(parser):
    parser.addoption("--parity", action="store_true", help="print how close each golden array was met (with -n 0)")


def pytest_terminal_summary(terminalreporter):
    if terminalreporter.config.getoption("--parity"):
        from tests.golden_arrays import parity_table

        for line in parity_table():
            terminalreporter.write_line(line)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Modules share few programs, and those of all of them would take several GB of a worker's memory."""
    yield
    forget()


def forget():
    jax.clear_caches()
    gc.collect()
    # Compiling leaves hundreds of MB in pieces that glibc keeps unless it is told to return them.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


MOST_MEMORY = 1.5e9
"""Bytes of a worker above which it forgets its compiled programs within a module, too."""


@pytest.fixture(autouse=True)
def bound_memory():
    yield
    statistics = pathlib.Path("/proc/self/statm")
    if statistics.exists() and int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        forget()


@pytest.fixture(scope="session")
def tiny_prior() -> Prior:
    return random_prior(tiny_config(), name="tiny")


@pytest.fixture(scope="session")
def conditional_prior() -> Prior:
    return random_prior(tiny_config(noise_conditional=True, clip_input=False, space_to_depth=2), name="conditional")


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory) -> pathlib.Path:
    """The tiny prior on disk, with settings for every task."""
    directory = tmp_path_factory.mktemp("priors") / "tiny"
    random_prior(tiny_config(), name="tiny", settings={"default": TINY_SETTINGS}).save(directory)
    return directory


@pytest.fixture(scope="session")
def noisy_images() -> np.ndarray:
    """Three smooth images with noise, shape (3, 8, 16, 3)."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.2, 0.8, 16)[None, None, :, None] * np.array([1, 0.8, 0.6])
    return (ramp + 0.05 * rng.standard_normal((3, 8, 16, 3))).astype(np.float32)
