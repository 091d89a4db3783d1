"""Asserting on the error that the server answered."""

import contextlib

import pytest
from pymilvus import MilvusException


@contextlib.contextmanager
def fails(codes, *texts):
    """The block must raise a MilvusException with one of `codes` whose message holds all `texts`.

    `codes` is a number, a tuple of numbers, or None for "any error code of the server". Yields the
    pytest exception info.
    """
    with pytest.raises(MilvusException) as caught:
        yield caught
    error = caught.value
    allowed = (codes,) if isinstance(codes, int) else codes
    if allowed is None:
        assert isinstance(error.code, int) and error.code != 0, error
    else:
        assert error.code in allowed, f"expected code {codes}, got {error}"
    for text in texts:
        assert text in error.message, f"expected {text!r} in {error}"
    assert error.message and "panic" not in error.message
