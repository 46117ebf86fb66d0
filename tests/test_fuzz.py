"""Damaged files are read or refused in words, in bounded time and memory; `python -m benchmarks fuzz` tries more."""

import sys

import pytest

from benchmarks.fuzz import TARGETS, fuzz

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded by what Linux offers")

FEW = {"checkpoint": 500, "image": 300, "mask": 300, "kernel": 300}
MORE = {"checkpoint": 20_000, "prior": 600, "orbax": 100, "image": 5000, "mask": 5000, "kernel": 5000}


def check(target, count, seed):
    ends = fuzz(target, count, seed)
    assert set(ends) <= {"read", "refused"}, ends
    assert ends["refused"] > 0
    assert sum(ends.values()) == count


@pytest.mark.filterwarnings("ignore")  # of the libraries that read
@pytest.mark.parametrize("target", FEW)
def test_few(target):
    check(target, FEW[target], seed=10**6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_more(target):
    check(target, MORE[target], seed=2 * 10**6)
