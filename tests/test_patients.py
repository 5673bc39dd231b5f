"""The list of patients beside a dataset: read as spreadsheets save it, refused by name where it cannot be right."""

import pytest

from rectal_nnformer.errors import RectalError
from rectal_nnformer.nnunet.patients import PATIENTS_FILE, read_patients


@pytest.mark.parametrize(
    "content",
    [
        b"case,patient\na,p1\nb,p2\n",
        b"\xef\xbb\xbfcase;patient\r\na;p1\r\nb;p2\r\n",
        b"patient,age,case\n p1 ,61,a\np2,70, b\n",
    ],
)
def test_lists_as_spreadsheets_save_them(tmp_path, content):
    (tmp_path / PATIENTS_FILE).write_bytes(content)
    assert read_patients(tmp_path) == {"a": "p1", "b": "p2"}


def test_a_dataset_without_a_list_knows_no_patients(tmp_path):
    assert read_patients(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"case,name\na,p1\n", "columns case and patient"),
        (b"case,patient\na,\n", "without case or patient .line 2."),
        (b"case,patient\na\n", "without case or patient"),
        (b"case,patient\na,p1\na,p2\n", "names case a twice .line 3."),
        (b"case,patient\na,\xff\n", "cannot be read"),
        (b"", "columns case and patient"),
    ],
)
def test_a_list_that_cannot_be_right_is_named(tmp_path, content, reason):
    (tmp_path / PATIENTS_FILE).write_bytes(content)
    with pytest.raises(RectalError, match=rf"{tmp_path / PATIENTS_FILE}.*{reason}"):
        read_patients(tmp_path)
