"""Where the tests put the counts of the corpus, and `conftest.py` finds them."""

import pytest

COUNTS = pytest.StashKey[dict[str, tuple[int, int, int, int]]]()
