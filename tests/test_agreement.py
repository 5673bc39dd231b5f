from dataclasses import asdict, replace

import numpy as np
import pytest
from confidence_cases import SHAPE, scored_case

from rectal_nnformer.evaluation.agreement import (
    Limits,
    VolumeAgreement,
    absolute_agreement,
    limits_of_agreement,
    volume_agreement,
)
from rectal_nnformer.utils.files import write_json
from rectal_nnformer.utils.json_records import read_own

pytestmark = pytest.mark.filterwarnings("error")

VOLUMES = [(12.4, 14.1), (3.2, 2.7), (25.0, 21.9), (8.8, 9.9), (40.3, 35.2), (1.1, 1.9), (15.5, 15.0), (6.0, 7.7)]


def cases_of(volumes):
    case = scored_case("case", np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE))
    return [
        replace(case, case=f"case_{index}", predicted_cm3=predicted, reference_cm3=reference)
        for index, (predicted, reference) in enumerate(volumes)
    ]


@pytest.mark.parametrize(
    ("ratings", "icc", "interval"),
    [
        # Table 2 of Shrout and Fleiss 1979; they give ICC(2,1) = 0.29. These and the following digits: pingouin 0.7.0.
        (
            [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
            0.28976377952755916,
            (0.01878651, 0.76108437),
        ),
        (VOLUMES, 0.9811408594595292, (0.91366859, 0.99615674)),
        ([(3.0, 5.0), (4.0, 1.0), (2.0, 6.0), (5.0, 2.5)], -1.2146596858638743, (-1.92509713, 0.53353738)),
    ],
)
def test_intraclass_correlation_is_pingouins(ratings, icc, interval):
    value, bounds = absolute_agreement(np.array(ratings, dtype=float))
    assert value == pytest.approx(icc, abs=1e-12)
    assert bounds == pytest.approx(interval, abs=1e-8)


def test_a_constant_shift_lowers_absolute_agreement():
    ratings = np.array([(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)])
    assert absolute_agreement(ratings) == (1.0, None)
    value, (low, high) = absolute_agreement(ratings + np.array([0, 1]))
    assert low < value < high
    assert value < 0.9


def test_limits_are_those_of_bland_and_altman():
    # 85 differences of systolic pressure with mean -16.29 and standard deviation 19.61 (Bland and Altman 1999).
    values = np.random.default_rng(0).normal(size=85)
    limits = limits_of_agreement((values - values.mean()) / values.std(ddof=1) * 19.61 - 16.29)
    assert (limits.lower, limits.upper) == pytest.approx((-54.7, 22.1), abs=0.05)
    assert limits.bias_95 == pytest.approx((-20.5, -12.1), abs=0.1)
    assert limits.lower_95 == pytest.approx((-61.9, -47.5), abs=0.2)
    assert limits.upper_95 == pytest.approx((14.9, 29.3), abs=0.2)


def test_peak_flow_of_two_meters():
    # Bland and Altman 1986: mean -2.1, standard deviation 38.8, 95 % interval of the mean -22.0 to 17.8 l/min.
    large = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    limits = limits_of_agreement(np.array(large, dtype=float) - mini)
    assert limits.bias == pytest.approx(-2.1, abs=0.05)
    assert (limits.upper - limits.lower) / 2 / 1.96 == pytest.approx(38.8, abs=0.05)
    assert limits.bias_95 == pytest.approx((-22.0, 17.8), abs=0.1)


def test_ratios_are_by_way_of_the_logarithm():
    result = volume_agreement(cases_of([*VOLUMES, (0.0, 3.0), (0.0, 0.0)]))
    ratios = np.array([predicted / reference for predicted, reference in VOLUMES])
    assert (result.n_cases, result.difference_cm3.n_cases, result.ratio.n_cases) == (10, 10, 8)
    assert result.ratio.bias == pytest.approx(ratios.prod() ** (1 / 8))
    spread = np.exp(1.959964 * np.log(ratios).std(ddof=1))
    assert (result.ratio.lower, result.ratio.upper) == pytest.approx(
        (result.ratio.bias / spread, result.ratio.bias * spread), rel=1e-6
    )


def test_every_cohort_is_defined():
    unknown = [replace(case, predicted_cm3=None) for case in cases_of(VOLUMES)]
    nothing = VolumeAgreement(0, Limits(0), Limits(0), None, None)
    assert volume_agreement([]) == volume_agreement(unknown) == nothing
    one = volume_agreement(cases_of([(2.0, 1.0)]))
    assert (one.difference_cm3, one.ratio.bias, one.icc) == (Limits(1, 1.0), 2.0, None)
    empty = volume_agreement(cases_of([(0.0, 0.0)] * 3))
    assert empty.difference_cm3 == Limits(3, 0.0, None, 0.0, None, 0.0, None)
    assert (empty.ratio, empty.icc) == (Limits(0), None)
    shifted = volume_agreement(cases_of([(0.3, 0.1), (0.7, 0.5), (1.1, 0.9)]))
    assert shifted.difference_cm3.bias_95 is None


def test_the_result_is_read_as_it_was_written(tmp_path):
    result = volume_agreement(cases_of(VOLUMES))
    write_json(tmp_path / "agreement.json", asdict(result))
    assert read_own(VolumeAgreement, tmp_path / "agreement.json", "") == result
