"""The report in a real browser: narrow and wide, light and dark, by mouse and by keyboard, with and without scripts."""

import json

import pytest
from browser import RUN_OVER, check_looks, chromium, needs_chromium, opened, set_screen
from report_runs import CASES, FAR, NEAR, SMALL, write_run

from rectal_nnformer.evaluation.operating_point import nested_point, write_point
from rectal_nnformer.evaluation.wish import parse_wish
from rectal_nnformer.reporting import report_page, write_report
from rectal_nnformer.reporting.results import read_results

pytestmark = needs_chromium

HOSTILE = '<img src=x onerror=alert(1)>"&'


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report whose groups of pictures are closed except the missed ones, as in a large cohort."""
    base = tmp_path_factory.mktemp("browser")
    cases = {**CASES, HOSTILE: ([FAR], None), "nothing": ([], []), "case_10": ([SMALL], [SMALL])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "OPEN_AT_MOST", 0)
        run = write_run(base, cases, sure=True)
        groups = base / "groups.csv"
        groups.write_text("case,a long name of what groups are by\nfound,a vendor with a long name\nsilent,another\n")
        found = {fold: result.cases for fold, result in read_results(run).folds.items()}
        write_point(nested_point(found, parse_wish("fp-per-case=0.5")).chosen, run)
        return write_report(run, groups=groups).as_uri()


@pytest.fixture
def page(browser, address):
    """The page on a large screen; whatever it writes to the console fails the test."""
    with opened(browser, address, 1280) as page:
        yield page


def find(page, selector):
    return page.find_element("css selector", selector)


def texts(page, selector):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter((e) => e.checkVisibility()).map((e) => e.textContent)",
        selector,
    )


def case_names(page):
    return texts(page, "#case-table tbody th")


def column(page, name):
    number = texts(page, "#case-table thead th").index(name) + 1
    return texts(page, f"#case-table tbody tr > :nth-child({number})")


def press(page, *keys):
    """Send keys to whatever has the focus."""
    page.switch_to.active_element.send_keys(*keys)


def key(name):
    from selenium.webdriver.common.keys import Keys

    return getattr(Keys, name)


def choose(select, value):
    from selenium.webdriver.support.ui import Select

    Select(select).select_by_value(value)


def until(page, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 5, poll_frequency=0.05).until(lambda _: condition())


# --- looks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_overflows_and_all_text_can_be_read(page, width, dark):
    check_looks(page, width, dark, fewest_texts=200)


@pytest.mark.parametrize("width", [360, 700, 900, 1400])
def test_no_tile_is_narrower_than_its_words(page, width):
    set_screen(page, width)
    tiles = page.find_elements("css selector", ".tiles > div")
    assert len(tiles) == 6 and all(tile.size["width"] >= 115 for tile in tiles)


def test_charts_are_told_in_words_and_their_numbers_stand_in_a_table(page):
    lacking = """
    return [...document.querySelectorAll("svg.chart")]
      .filter((chart) => !chart.querySelector("title").textContent || !chart.querySelector("desc").textContent
        || !chart.closest("section").querySelector("table, figcaption, dl"))
      .map((chart) => chart.outerHTML.slice(0, 80));
    """
    assert page.execute_script(lacking) == []
    names = page.execute_script("return [...document.querySelectorAll('.chart > title')].map((e) => e.id)")
    assert {"froc-name", "roc-name", "reliability-name", "volumes-name"} <= set(names)


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_in_a_chart_lies_over_its_text(page, width):
    set_screen(page, width)
    overlaps = """
    return [...document.querySelectorAll("svg.chart:not(:has(.in-cell))")].flatMap((chart) => {
      const boxes = [...chart.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
      return boxes.flatMap(([one, a], index) => boxes.slice(index + 1)
        .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        .map(([other]) => `${chart.querySelector("title").textContent}: ${one} | ${other}`));
    });
    """
    assert page.execute_script(overlaps) == []


def test_a_case_of_the_review_list_leads_to_its_pictures(page):
    link = find(page, "#first tbody tr:first-child a")
    card = find(page, link.get_attribute("href")[link.get_attribute("href").index("#") :])
    page.execute_script("arguments[0].click()", link)
    until(page, card.is_displayed)
    assert link.text in card.text


def test_text_in_charts_is_legible_on_a_phone(page):
    set_screen(page, 360)
    heights = page.execute_script(
        "return [...document.querySelectorAll('.chart text')].map((e) => e.getBoundingClientRect().height)"
    )
    assert min(heights) >= 9


def test_dark_mode_is_dark_and_motion_stops_where_it_is_unwanted(page):
    def style(name):
        return page.execute_script(f"return getComputedStyle(document.documentElement).{name}")

    set_screen(page, 1280, dark=True)
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
    assert style("scrollBehavior") == "auto"
    set_screen(page, 1280, reduced_motion=False)
    assert style("scrollBehavior") == "smooth"


def test_print_shows_whole_tables_and_one_slice_of_each_tumour(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = page.execute_script(
        "return [...document.querySelectorAll('.group:first-of-type .card')]"
        ".map((card) => [...card.querySelectorAll('.slice')].filter((s) => s.checkVisibility()).length)"
    )
    frame = page.execute_script("return getComputedStyle(document.querySelector('.tall')).overflowY")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert set(shown[:2]) == {1} and frame == "visible"


@pytest.mark.parametrize("width", [360, 1400])
def test_captions_are_whole_and_stay_in_sight_while_the_table_scrolls(page, width):
    set_screen(page, width)
    outside = """
    return [...document.querySelectorAll("table")].flatMap((table) => {
      const frame = table.closest(".frame"), text = document.createRange();
      text.selectNodeContents(table.caption);
      return [0, 9999].map((left) => {
        frame.scrollLeft = left;
        const [inner, outer] = [text.getBoundingClientRect(), frame.getBoundingClientRect()];
        return inner.left > outer.left - 1 && inner.right < outer.right + 1 ? "" : table.caption.textContent;
      });
    }).filter(Boolean);
    """
    assert page.execute_script(outside) == []


def test_no_text_runs_out_of_its_cell_on_a_phone(page):
    set_screen(page, 360)
    assert page.execute_script(RUN_OVER) == []


# --- names that mean harm --------------------------------------------------------------------------------------------

HARMFUL = (
    "<script>window.harmed = 1</script>".replace("/", "\u2044"),
    "</td></table><svg onload=harmed=1>".replace("/", "\u2215"),
    "\"'><img src=x onerror=harmed=1>&amp;&",
    "very_long_" + 22 * "abcdefgh",
    "\u05e9\u05dc\u05d5\u05dd_\u05e2\u05d5\u05dc\u05dd_case",
    "\u202eovertaken",
)


@pytest.fixture(scope="module")
def harmful_address(tmp_path_factory):
    """A report in which cases, labels, trainers and notes of the training are called what nobody should call them."""
    base = tmp_path_factory.mktemp("harmful")
    run = write_run(base, {name: ([NEAR, FAR], [NEAR, SMALL]) for name in HARMFUL}, trainer=f"{HARMFUL[2]}\u202e")
    write_run(base, trainer="nnUNetTrainer" + 8 * "Long", configuration="3d_fullres_cubic")
    dataset = json.loads((run / "dataset.json").read_text())
    (run / "dataset.json").write_text(json.dumps({**dataset, "labels": {"background": 0, f"{HARMFUL[0]}tumor": 1}}))
    (run / "fold_0/debug.json").write_text(json.dumps({"gpu_name": HARMFUL[0], "device": HARMFUL[2]}))
    return write_report(run).as_uri()


@pytest.mark.parametrize("width", [360, 1400])
def test_names_that_mean_harm_are_nothing_but_text(page, harmful_address, width):
    set_screen(page, width)
    page.get(harmful_address)
    page.execute_script("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
    assert sorted(case_names(page)) == sorted(HARMFUL)
    assert page.execute_script("return [window.harmed ?? null, document.scripts.length]") == [None, 1]
    assert page.execute_script("return document.querySelectorAll('img[src=x], [onload], [onerror]').length") == 0
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script(RUN_OVER) == []
    find(page, "#case-text").send_keys(HARMFUL[2])
    assert case_names(page) == [HARMFUL[2]]


def test_a_name_that_turns_the_reading_direction_turns_nothing_but_itself(page, harmful_address):
    page.get(harmful_address)
    lefts = page.execute_script(
        "return [...document.querySelectorAll('.subtitle bdi')].map((name) => name.getBoundingClientRect().left)"
    )
    assert len(lefts) == 3 and lefts == sorted(lefts)


# --- table of cases --------------------------------------------------------------------------------------------------


def test_names_of_cases_are_shown_as_they_are(page):
    assert HOSTILE in case_names(page)
    assert page.execute_script("return document.querySelectorAll('img[onerror], img[src=x]').length") == 0


def test_a_click_sorts_by_number_and_another_one_the_other_way(page):
    header = find(page, "#case-table th:nth-child(5)")
    assert header.text.startswith("Dice") and header.get_attribute("aria-sort") is None
    header.find_element("css selector", "button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    ascending = column(page, "Dice")
    numbers = [float(text) for text in ascending[:-1]]
    assert numbers == sorted(numbers) and ascending[-1] == "-"
    header.find_element("css selector", "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    # A case without a Dice stays last.
    assert column(page, "Dice") == [*ascending[-2::-1], "-"]


def test_names_sort_with_their_numbers_and_only_one_column_is_marked(page):
    for index in (5, 1):
        find(page, f"#case-table th:nth-child({index}) button").click()
    assert page.execute_script("return document.querySelectorAll('th[aria-sort]').length") == 1
    assert [name for name in case_names(page) if name != HOSTILE] == sorted([*CASES, "nothing", "case_10"])


def test_the_keyboard_reaches_sorts_and_shows_where_it_is(page):
    button = find(page, "#case-table th:nth-child(2) button")
    page.execute_script("document.getElementById('case-outcome').focus()")
    # From the filters into the frame of the table, then to the buttons of its columns.
    press(page, key("TAB"))
    assert page.switch_to.active_element.aria_role == "region"
    press(page, key("TAB"))
    press(page, key("TAB"))
    assert page.switch_to.active_element == button
    assert page.execute_script("return getComputedStyle(arguments[0]).outlineStyle", button) == "solid"
    press(page, key("ENTER"))
    missed = column(page, "missed")
    assert missed == sorted(missed)
    press(page, key("SPACE"))
    assert column(page, "missed") == sorted(missed, reverse=True)


def test_cases_are_filtered_by_name_and_outcome_and_the_count_is_announced(page):
    total = len(CASES) + 3
    text, outcome, count = (find(page, f"#case-{name}") for name in ("text", "outcome", "count"))
    # Some versions of Chromium keep the space between a label's text and its field.
    assert [field.accessible_name.strip() for field in (text, outcome)] == ["Name contains", "Show"]
    assert count.aria_role == "status" and count.text == f"{total} of {total} cases"
    text.send_keys("FOUND")
    assert sorted(case_names(page)) == ["found", "half_found"]
    choose(outcome, "missed")
    assert case_names(page) == ["half_found"] and count.text == f"1 of {total} cases"
    text.clear()
    assert sorted(case_names(page)) == sorted(["half_found", "silent", HOSTILE])
    choose(outcome, "false-positive")
    assert case_names(page) == ["invented"]


def test_enter_in_a_filter_does_not_leave_the_page(page):
    find(page, "#case-text").send_keys("found", key("ENTER"))
    assert find(page, "#case-text").get_attribute("value") == "found" and "?" not in page.current_url


def test_a_case_leads_to_its_pictures_even_in_a_closed_group(page):
    link = next(link for link in page.find_elements("css selector", "#case-table a") if link.text == "found")
    card = find(page, link.get_attribute("href")[link.get_attribute("href").index("#") :])
    assert not card.is_displayed()
    link.click()
    until(page, card.is_displayed)
    until(page, lambda: -1 <= page.execute_script("return arguments[0].getBoundingClientRect().top", card) < 900)
    assert "found" in card.text and "detected" in card.text


# --- pictures --------------------------------------------------------------------------------------------------------


def slice_shown(card):
    """Return the caption of the slice that fills the strip of a card."""
    return card.parent.execute_script(
        "const strip = arguments[0].querySelector('.strip'), left = strip.getBoundingClientRect().left;"
        "return [...strip.children].find((s) => Math.abs(s.getBoundingClientRect().left - left) < 2)"
        "?.querySelector('.place').textContent",
        card,
    )


def test_the_first_card_is_a_missed_tumour_and_starts_where_it_is_largest(page):
    card = find(page, "#pictures .card")
    page.execute_script("arguments[0].scrollIntoView()", card)
    assert "missed" in card.text
    until(page, lambda: slice_shown(card) == "12 / 20")


def test_the_slider_goes_through_the_slices_by_keyboard_and_says_where_it_is(page):
    card = find(page, "#pictures .card")
    slider = card.find_element("css selector", "input[type=range]")
    page.execute_script("arguments[0].scrollIntoView()", card)
    until(page, lambda: slice_shown(card) == "12 / 20")
    slider.send_keys(key("ARROW_RIGHT"))
    until(page, lambda: slice_shown(card) == "13 / 20")
    assert slider.get_attribute("aria-valuetext").startswith("Slice 13 of 20: reference")
    assert slider.accessible_name.startswith("Slice of ")
    slider.send_keys(key("HOME"))
    first = slice_shown(card)
    assert first == card.find_element("css selector", ".place").get_attribute("textContent")


def test_the_slider_follows_when_the_strip_itself_is_moved(page):
    card = find(page, "#pictures .card")
    slider, strip = (card.find_element("css selector", selector) for selector in ("input[type=range]", ".strip"))
    page.execute_script("arguments[0].scrollIntoView()", card)
    until(page, lambda: slice_shown(card) == "12 / 20")
    page.execute_script("arguments[0].scrollLeft = 0", strip)
    until(page, lambda: slider.get_attribute("value") == "1")


def test_pictures_decode_and_keep_their_slice_when_the_window_changes(page):
    card = find(page, "#pictures .card")
    page.execute_script("arguments[0].scrollIntoView()", card)
    image = card.find_element("css selector", "[data-largest] img")
    until(page, lambda: page.execute_script("return arguments[0].naturalWidth", image) >= 60)
    set_screen(page, 360)
    until(page, lambda: slice_shown(card) == "12 / 20")


@pytest.mark.parametrize("width", [360, 1400])
def test_the_bar_is_as_long_as_it_says(page, width):
    set_screen(page, width)
    card = find(page, "#pictures .card")
    page.execute_script("arguments[0].scrollIntoView()", card)
    bar, image = (card.find_element("css selector", name) for name in (".scale-bar path", "[data-largest] img"))
    shown = page.execute_script("return arguments[0].getBoundingClientRect().width", bar)
    assert card.find_element("css selector", ".scale").text == "20 mm"
    assert shown == pytest.approx(20 / 64 * image.size["width"], rel=0.02)
    assert "slices 3 mm apart" in card.text


@pytest.mark.parametrize("name", ["reference", "prediction"])
def test_outlines_are_switched_off_and_on_by_keyboard(page, name):
    page.execute_script("document.querySelectorAll('details').forEach((group) => (group.open = true))")

    def visible():
        return page.execute_script(
            f"return [...document.querySelectorAll('path.{name}')].map((e) => getComputedStyle(e).visibility)"
        )

    switch = find(page, f"#show-{name}")
    assert switch.accessible_name.startswith(name) and set(visible()) == {"visible"}
    switch.send_keys(key("SPACE"))
    assert set(visible()) == {"hidden"}
    other = {"reference": "prediction", "prediction": "reference"}[name]
    assert (
        page.execute_script(f"return getComputedStyle(document.querySelector('path.{other}')).visibility") == "visible"
    )
    switch.send_keys(key("SPACE"))
    assert set(visible()) == {"visible"}


def test_outlines_differ_by_their_dashes_and_not_by_colour_alone(page):
    dashes = [
        page.execute_script(f"return getComputedStyle(document.querySelector('path.{name}')).strokeDasharray")
        for name in ("reference", "prediction")
    ]
    assert dashes[0] == "none" != dashes[1]


def test_cards_are_filtered_by_case(page):
    find(page, "#card-text").send_keys("silent")
    assert len(texts(page, ".card")) == 1


# --- the page as a document ------------------------------------------------------------------------------------------


def test_the_first_tab_offers_to_skip_to_the_result(page):
    press(page, key("TAB"))
    skip = page.switch_to.active_element
    assert skip.text == "Skip to the result" and skip.rect["x"] >= 0
    press(page, key("ENTER"))
    assert page.current_url.endswith("#result")


def test_landmarks_and_controls_have_names(page):
    roles = {selector: find(page, selector).aria_role for selector in ("main", "header", "nav", "footer", "#cases")}
    assert roles == {
        "main": "main",
        "header": "banner",
        "nav": "navigation",
        "footer": "contentinfo",
        "#cases": "region",
    }
    # Chromium names what it draws, and far below it draws no card.
    page.execute_script("document.querySelector('#pictures').scrollIntoView()")
    controls = page.find_elements(
        "css selector", "input, select, button, section, [role=region], .strip, .chart, summary"
    )
    assert len(controls) > 40
    assert [c.get_attribute("outerHTML")[:90] for c in controls if c.is_displayed() and not c.accessible_name] == []
    named = page.execute_script(
        "return [...document.querySelectorAll('[role=region], .strip, .slider')].map((e) => e.ariaLabel)"
    )
    assert len(named) == len(set(named))
    plan = [name for name in named if name.startswith("Patch sizes")]
    assert plan == [
        "Patch sizes: expected of tiles in prediction, by stage of the encoder",
        "Patch sizes: expected of training crops, some of them rotated or scaled",
    ]


def test_nothing_is_fetched(page):
    names = page.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name.slice(0, 5))"
    )
    assert set(names) <= {"data:"}


def test_without_scripts_everything_can_be_read(tmp_path, address):
    with chromium(tmp_path / "profile", scripts=False) as driver:
        set_screen(driver, 360)
        driver.get(address)
        assert "4 of 7 tumours detected" in find(driver, "#result").text
        assert not find(driver, "#case-controls").is_displayed()
        assert find(driver, "#show-reference").is_displayed()
        assert len(driver.find_elements("css selector", "#case-table tbody tr")) == len(CASES) + 3
        assert not driver.find_elements("css selector", "th button, .slider")
        assert len(driver.find_elements("css selector", ".group:first-of-type .slice img")) > 5
