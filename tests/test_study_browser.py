"""The page of a study in a real browser: narrow and wide, light and dark."""

import pytest
from browser import check_looks, needs_chromium, opened
from test_study import STUDY, naming_site, study_in, write_planned, write_two_sites

from rectal_nnformer.study.page import write_page
from rectal_nnformer.study.record import read_study

pytestmark = needs_chromium

LONG = "ACT-by-a-name-that-is-longer-than-names-should-be"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with all that it may hold: curves, another cohort, disputed tumours, and names that are long."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        base = write_planned(tmp_path_factory.mktemp("study_page"), monkeypatch)
        run = write_two_sites(base, monkeypatch, sure=True)
        text = naming_site(text=STUDY.replace('"ACT"', f'"{LONG}"'))
        study = read_study(study_in(base / "study", text))
        run(study, LONG, "stock", sure=True)
        return write_page(study).as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_overflows_and_all_text_can_be_read(browser, address, width, dark):
    with opened(browser, address, width) as page:
        check_looks(page, width, dark, fewest_texts=100)
