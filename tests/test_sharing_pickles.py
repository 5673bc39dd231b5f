"""Case properties read as data: whatever numpy stores comes back, whatever could run does not."""

import collections
import contextlib
import datetime
import os
import pickle
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from sharing_inputs import Runs

from rectal_nnformer.sharing.data_pickle import UnsafePickle, names_in_pickle, parse

NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=5))
ARRAYS = stn.arrays(
    stn.integer_dtypes() | stn.floating_dtypes(sizes=(32, 64)), stn.array_shapes(min_dims=0, max_dims=4, min_side=0)
)
VALUES = st.recursive(
    NUMBERS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype.newbyteorder("=") == other.dtype and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("protocol", [3, 4, 5])
@given(value=VALUES)
def test_data_come_back(protocol, value):
    assert same(value, parse(pickle.dumps(value, protocol)))


@pytest.mark.parametrize(
    "value",
    [np.float64(1.5), np.int16(-3), np.arange(6).reshape(2, 3).T, np.asfortranarray(np.ones((2, 3))), {(1, 2): [1]}],
)
def test_numbers_and_layouts_come_back(value):
    assert same(value, parse(pickle.dumps(value, 4)))


def test_shared_values_come_back():
    shared = [1, 2]
    assert parse(pickle.dumps({"a": shared, "b": shared})) == {"a": [1, 2], "b": [1, 2]}


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def containing_itself():
    value = []
    value.append(value)
    return value


def growing():
    value = [0]
    for _ in range(25):
        value = [value, value]
    return value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(subprocess.Popen, "true"),
        Call(getattr, 1, "real"),
        {"class_locations": np.array([Call(os.system, "true")], dtype=object)},
        np.array(["text"]),
        np.zeros(2, dtype=[("a", int)]),
        np.ma.masked_array([1], [True]),
        datetime.date(1950, 1, 31),
        collections.OrderedDict(a=1),
        {1, 2},
        complex(1, 2),
        containing_itself(),
        growing(),
        {None: 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_refused(value, protocol):
    with pytest.raises(UnsafePickle):
        parse(pickle.dumps(value, protocol))


def test_nothing_is_executed(tmp_path):
    data = pickle.dumps([Runs(tmp_path / "executed")])
    with pytest.raises(UnsafePickle, match="which opening it would import"):
        parse(data)
    assert not (tmp_path / "executed").exists()
    pickle.loads(data)
    assert (tmp_path / "executed").exists(), "the pickle does nothing, so the test shows nothing"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02\x82\x01.",
        b"Ppersistent\n.",
        b"\x80\x05\x97.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR.",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",
        b"cnumpy\nndarray\n(I99999999999\ntR.",
        b"N\xff\xff\xff\xff",
        b"Nr\xff\xff\xff\x7f.N.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b".",
        b"0.",
        b"}",
        b"}K\x01K\x02s}.",
        b"K\x01" * 500_010 + b".",
        b"NN.",
        b"N.N.",
    ],
)
def test_forged_programs_are_refused(program):
    with pytest.raises(UnsafePickle):
        parse(program)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_else(data):
    with contextlib.suppress(UnsafePickle):
        parse(data)


def test_arrays_must_hold_as_many_bytes_as_they_claim():
    honest = pickle.dumps(np.zeros((2, 3), np.int64), 4)
    with pytest.raises(UnsafePickle, match="shape"):
        parse(honest.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))


def test_names_are_told_without_being_looked_up():
    assert names_in_pickle(pickle.dumps(Call(os.system, "true"), 4)) == ["posix.system"]
    assert names_in_pickle(b"cos\nsystem\n.") == ["os.system"]
    hidden = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x05numpy\x94\x8c\x07ndarray\x940000"
    assert names_in_pickle(hidden + b"h\x00h\x01\x93.") == ["os.system"]
    assert names_in_pickle(b"\x8c\x02os\x8c\x06system2\x93.") == ["(a name put together while opening)"]
