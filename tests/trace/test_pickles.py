"""A pickle gives counters and numbers, or is refused; it changes nothing and costs little."""

import collections
import os
import pickle
import pickletools
import time

import numpy as np
import pytest

from modeval.trace.importers.pickles import ALLOWED, PickleError, read_pickle

COUNTERS = [
    collections.Counter({np.int64(3): np.int64(5), np.int32(1): np.uint8(2), 0: 10**12}),
    collections.Counter(),
]
HONEST = [{3: 5, 1: 2, 0: 10**12}, {}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_counters_of_every_protocol_are_read(protocol):
    assert read_pickle(pickle.dumps(COUNTERS, protocol=protocol)) == HONEST
    big = np.dtype(">i4").type(7)
    assert read_pickle(pickle.dumps([{1: np.array(7, ">i4")[()], 2: big}], protocol=protocol)) == [
        {1: 7, 2: 7}
    ]


class Call:
    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


MALICE = {
    "system": Call(os.system, "true"),
    "getattr": Call(getattr, "text", "join"),
    "eval": Call(eval, "1"),
    "object array": np.array([object()], dtype=object),
    "set": {1, 2},
    "numpy object number": Call(np.dtype, "O"),
}


@pytest.mark.parametrize("name", MALICE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_everything_else_is_refused(name, protocol):
    with pytest.raises(PickleError):
        read_pickle(pickle.dumps([MALICE[name]], protocol=protocol))


@pytest.mark.parametrize(("module", "name"), sorted(ALLOWED))
def test_build_changes_no_class_and_no_function(module, name):
    """The instruction that sets attributes of what was named: it reaches a name, no object."""
    counter = dict(vars(collections.Counter))
    state = b"}(X\x05\x00\x00\x00itemsX\x01\x00\x00\x00xu"
    program = b"\x80\x02" + f"c{module}\n{name}\n".encode() + state + b"b."
    assert list(pickletools.genops(program))  # a whole program
    with pytest.raises(PickleError, match="there already"):
        read_pickle(program)
    assert dict(vars(collections.Counter)) == counter


def test_nesting_that_doubles_costs_no_time():
    levels = (b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(60))
    started = time.perf_counter()
    read_pickle(b"\x80\x02]q\x00" + b"".join(levels) + b".")
    assert time.perf_counter() - started < 5


def test_a_program_without_end_is_stopped():
    with pytest.raises(PickleError, match="more than"):
        read_pickle(b"\x80\x02" + b"K\x00" * 2_100_000 + b".")
    with pytest.raises(ValueError, match="exhausted"):
        read_pickle(b"\x80\x02]")


def test_a_key_that_is_no_number_and_a_list_as_key_are_damage_not_crashes():
    with pytest.raises(PickleError, match="names no expert"):
        read_pickle(b"\x80\x02}]]s.")


NESTED = b"K\x01\x85q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))
SAME_HASH = b"\x8a\x0c" + ((2**61 - 1) << 30).to_bytes(12, "little")  # as all its multiples


@pytest.mark.parametrize("key", [NESTED, SAME_HASH], ids=["nested tuples", "beyond all experts"])
@pytest.mark.parametrize(("start", "end"), [(b"}", b"K\x05s"), (b"}(", b"K\x05u")])
def test_a_key_that_takes_long_to_hash_is_refused(key, start, end):
    with pytest.raises(PickleError, match="names no expert"):
        read_pickle(b"\x80\x02" + start + key + end + b".")
