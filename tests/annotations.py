"""What checks hvae_jax's annotations, shapes and types of arrays among them, while the tests run."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype


def checked(function: Callable) -> Callable:
    """A type checker for jaxtyping's import hook: what a function returned, together with what it was given.

    Only once it returned: a function may refuse arguments by an error of its own, which tests of bad inputs await, but
    what it accepts must be what its annotations say. (Before the call, the hook asks for a check without a result.)
    """
    unchecked = function.__annotations__.get("return") is Any or function.__qualname__ in _CHECKED_LATER
    return function if unchecked else _beartype(function)


_CHECKED_LATER = {"RestoreConfig.__init__", "Prior.__init__", "Prior.config"}
"""They refuse nothing themselves: what uses the settings does, and a prior takes any model until it is saved."""

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
