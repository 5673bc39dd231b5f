"use strict";
// The page is whole without this script, which adds sorting, filters and a slider for each strip of slices, where
// there are any.
document.documentElement.classList.add("js");

const rows = [...document.querySelectorAll("#case-table tbody tr")];
const cards = [...document.querySelectorAll(".card")];

function value(row, column) {
  const text = row.cells[column].dataset.value;
  return text !== "" && Number.isFinite(Number(text)) && column > 0 ? Number(text) : text;
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(header, column) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
  rows.sort((one, two) => {
    const [a, b] = [value(one, column), value(two, column)];
    // Undefined values stay at the end whichever way the rest is sorted.
    return a === "" || b === "" ? compare(a, b) : (descending ? -1 : 1) * compare(a, b);
  });
  document.querySelector("#case-table tbody").append(...rows);
}

document.querySelectorAll("#case-table th[data-sortable]").forEach((header, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sortBy(header, column));
  header.append(button);
});

function contains(element, text) {
  return element.dataset.name.toLowerCase().includes(text.trim().toLowerCase());
}

function filterRows() {
  const text = document.getElementById("case-text").value;
  const outcome = document.getElementById("case-outcome").value;
  for (const row of rows) row.hidden = !contains(row, text) || !(outcome === "" || row.dataset.outcome.split(" ").includes(outcome));
  const shown = rows.filter((row) => !row.hidden).length;
  const count = document.getElementById("case-count");
  count.textContent = `${shown} of ${rows.length} ${count.dataset.noun ?? "case"}${rows.length === 1 ? "" : "s"}`;
}

const caseControls = document.getElementById("case-controls");
if (caseControls) {
  caseControls.hidden = false;
  for (const type of ["input", "change"]) caseControls.addEventListener(type, filterRows);
}

const cardText = document.getElementById("card-text");
if (cardText) {
  cardText.parentNode.hidden = false;
  cardText.addEventListener("input", () => {
    for (const card of cards) card.hidden = !contains(card, cardText.value);
  });
}

for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());

function addSlider(card) {
  const strip = card.querySelector(".strip");
  if (!strip) return;
  const slices = [...strip.children];
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", className: "slider", min: 1, max: slices.length, step: 1, autocomplete: "off" });
  slider.setAttribute("aria-label", `Slice of ${strip.getAttribute("aria-label")}`);
  const say = () => slider.setAttribute("aria-valuetext", slices[slider.value - 1].querySelector("img").alt);
  const show = () => {
    strip.scrollLeft = (slider.value - 1) * strip.clientWidth;
    say();
  };
  slider.addEventListener("input", show);
  strip.addEventListener("scroll", () => {
    if (!strip.clientWidth) return;
    const at = String(Math.round(strip.scrollLeft / strip.clientWidth) + 1);
    if (at !== slider.value) {
      slider.value = at;
      say();
    }
  });
  slider.value = slices.findIndex((slice) => "largest" in slice.dataset) + 1;
  card.querySelector(".viewer").after(slider);
  // Cards far away are not laid out, and a strip without a width cannot be scrolled; at each new width it is set anew.
  new ResizeObserver(show).observe(strip);
  say();
}

cards.forEach(addSlider);

function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const group = target && target.closest("details");
  if (!group) return;
  target.hidden = false;
  group.open = true;
  target.scrollIntoView();
}

addEventListener("hashchange", reveal);
reveal();
