"""Which labels count as tumour."""

import pytest

from rectal_nnformer.imaging.masks import tumor_labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "tumor": 1}, [1]),
        ({"background": 0, "rectum": 1, "Rectal_Tumour": 2}, [2]),
        ({"background": 0, "GTV": 3, "cancer_node": 1, "bladder": 2}, [1, 3]),
        ({"background": 0, "peritumoral": 1, "non_tumor_wall": 2, "tumor": 3}, [3]),
        ({"background": 0, "a": 1, "b": 2, "ignore": 3}, [1, 2]),
        ({"background": 0, "rectum": [1, 2], "tumor": [2]}, [2]),
    ],
)
def test_tumor_labels(labels, expected):
    assert tumor_labels({"labels": labels}) == expected
