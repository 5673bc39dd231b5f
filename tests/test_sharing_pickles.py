"""Pickles: those of our own datasets read by a short list of names, those from elsewhere listed and never read."""

import collections
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

from rectal_nnformer.errors import RectalError
from rectal_nnformer.utils.pickles import names_in_pickle, read_own_pickle

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


@pytest.fixture(scope="module")
def parse(tmp_path_factory):
    path = tmp_path_factory.mktemp("pickles") / "case.pkl"

    def parse(data):
        path.write_bytes(data)
        return read_own_pickle(path)

    return parse


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=") and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("protocol", [3, 4, 5])
@given(value=VALUES)
def test_data_come_back(parse, protocol, value):
    assert same(value, parse(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("value", [np.float64(1.5), np.int16(-3), np.arange(6).reshape(2, 3).T, {(1, 2): [1]}])
def test_numbers_and_layouts_come_back(parse, value):
    assert same(value, parse(pickle.dumps(value, 4)))


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_arrays_of_older_and_newer_numpy_come_back(parse, core):
    data = pickle.dumps(np.arange(6).reshape(2, 3).T, 3).replace(b"numpy._core.", b"numpy.%s." % core)
    assert same(np.arange(6).reshape(2, 3).T, parse(data))


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        Call(os.system, "true"),
        Call(eval, "1"),
        Call(subprocess.Popen, "true"),
        Call(getattr, 1, "real"),
        {"class_locations": np.array([Call(os.system, "true")], dtype=object)},
        np.ma.masked_array([1], [True]),
        datetime.date(1950, 1, 31),
        collections.OrderedDict(a=1),
        complex(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_refused(parse, value, protocol):
    with pytest.raises(RectalError, match="which opening it would import"):
        parse(pickle.dumps(value, protocol))


def test_nothing_is_executed(parse, tmp_path):
    data = pickle.dumps([Runs(tmp_path / "executed")])
    with pytest.raises(RectalError, match="which opening it would import"):
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
        b"\x80\x02\x82\x01.",
        b"Ppersistent\n.",
        b"\x80\x05\x97.",
        b"N\xff\xff\xff\xff",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b".",
        b"0.",
        b"}",
    ],
)
def test_forged_programs_are_refused(parse, program):
    with pytest.raises(RectalError, match="was not opened"):
        parse(program)
    assert isinstance(names_in_pickle(program), list)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_can_be_listed(data):
    assert all(isinstance(name, str) for name in names_in_pickle(data))


def test_names_are_told_without_being_looked_up():
    assert names_in_pickle(pickle.dumps(Call(os.system, "true"), 4)) == ["posix.system"]
    assert names_in_pickle(b"cos\nsystem\n.") == ["os.system"]
    hidden = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x8c\x05numpy\x94\x8c\x07ndarray\x940000"
    assert names_in_pickle(hidden + b"h\x00h\x01\x93.") == ["os.system"]
    assert names_in_pickle(b"\x8c\x02os\x8c\x06system2\x93.") == ["(a name put together while opening)"]
