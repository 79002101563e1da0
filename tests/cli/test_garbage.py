"""While a command loads or ends, Python looks for no garbage; in between it does, as before."""

import gc
import time

import pytest

from modeval.cli.garbage import no_search_while_loading


@pytest.fixture(autouse=True)
def _as_before():
    assert gc.isenabled()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_looked_for_while_a_command_loads_and_all_is_as_before_when_it_ends():
    with no_search_while_loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="so"), no_search_while_loading():
        raise ValueError("so")
    assert gc.isenabled()


def test_nor_among_what_is_there_when_it_ends():
    with no_search_while_loading():
        assert not gc.get_freeze_count()
        kept = [[] for _ in range(1000)]
    assert gc.get_freeze_count() > len(kept)


def test_in_what_takes_longer_garbage_is_looked_for_but_not_among_what_was_loaded():
    with no_search_while_loading(0.01):
        until = time.monotonic() + 10
        while not gc.isenabled() and time.monotonic() < until:
            time.sleep(0.01)
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000


def test_where_it_was_switched_off_it_stays_so():
    gc.disable()
    with no_search_while_loading(0.01):
        time.sleep(0.05)
        assert not gc.isenabled()
    assert not gc.isenabled()
