"""A headless Chromium for tests of the page; tests that need it skip, and say so, where there is none."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver (Debian: apt-get install chromium-driver)"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

# For every text of the page the contrast with what lies behind it, as WCAG 2 defines it, and whether it is large.
CONTRASTS = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const c = numbers(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c;
  }
}
return [...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && !e.closest("script, .viewer, .in-cell, option, title, desc"))
  .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((e) => {
    const style = getComputedStyle(e);
    const ink = numbers(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(behind(e))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24;
    return [(a + 0.05) / (b + 0.05), large, e.textContent.trim().slice(0, 40)];
  });
"""

# Elements of tables, cards and charts whose text reaches out of them, or a chart's out of the screen.
RUN_OVER = """
return [
  ...[...document.querySelectorAll("th, td, dt, dd, h4, .subtitle")]
    .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1),
  ...[...document.querySelectorAll(".chart text")].filter((e) => e.getBoundingClientRect().right > innerWidth),
].map((e) => e.textContent.slice(0, 60));
"""

# Parts of the page that reach out of the screen.
TOO_WIDE = """
return [...document.querySelectorAll("section, h1, h2, h3, .card, .chart, form")]
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80));
"""


@contextmanager
def chromium(profile, scripts=True):
    """Yield a running browser with an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def set_screen(driver, width, height=900, dark=False, reduced_motion=True):
    """Give the page a screen of so many CSS pixels, and the preferences of its user."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce" if reduced_motion else "no-preference"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@contextmanager
def opened(driver, address, width):
    """Yield the browser with a page on a screen of this width; whatever the page writes to the console is an error."""
    set_screen(driver, width)
    driver.get("about:blank")
    driver.get_log("browser")
    driver.get(address)
    yield driver
    assert driver.get_log("browser") == []


def check_looks(driver, width, dark, fewest_texts):
    """Make sure that nothing of a page overflows on such a screen, and that all of its many texts can be read."""
    set_screen(driver, width, dark=dark)
    driver.execute_script("document.querySelectorAll('details').forEach((group) => (group.open = true))")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(TOO_WIDE) == []
    assert driver.execute_script(RUN_OVER) == []
    contrasts = driver.execute_script(CONTRASTS)
    assert len(contrasts) > fewest_texts
    assert [entry for entry in contrasts if entry[0] < (3 if entry[1] else 4.5)] == []
