"use strict";
// Sorts and searches what the page holds already; without it the page is whole, in the order of time.
const list = document.getElementById("cards");
const body = document.querySelector("#index tbody");
const rows = [...body.children];
const cards = new Map([...list.children].map(card => [card.id, card]));  // not every row has one
const search = document.getElementById("search");
const count = document.getElementById("count");
const boxes = [...document.querySelectorAll("[name=outcome]")];
const headers = [...document.querySelectorAll("#index th[data-key]")];
document.getElementById("tools").hidden = false;

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = new Set(boxes.filter(box => box.checked).map(box => box.value));
  let shown = 0;
  for (const row of rows) {
    const fits = outcomes.has(row.dataset.outcome) && words.every(word => row.dataset.words.includes(word));
    row.hidden = !fits;
    const card = cards.get(row.dataset.card);
    if (card) card.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${rows.length}`;
}

function sort(header) {
  const key = header.dataset.key, numeric = header.dataset.type === "number";
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => numeric ? (row.dataset[key] === "" ? NaN : Number(row.dataset[key])) : row.dataset[key];
  const order = (a, b) => numeric ? a - b : a < b ? -1 : a > b ? 1 : 0;
  const sorted = [...rows].sort((one, other) => {
    const a = value(one), b = value(other);
    if (numeric && (isNaN(a) || isNaN(b))) return isNaN(a) - isNaN(b);  // what has no value comes last
    return (down ? -1 : 1) * order(a, b);
  });
  body.append(...sorted);
  list.append(...sorted.map(row => cards.get(row.dataset.card)).filter(Boolean));
}

search.addEventListener("input", show);
for (const box of boxes) box.addEventListener("change", show);
for (const header of headers) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sort(header));
  header.append(button);
}
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && location.hash.startsWith("#large-")) location.hash = location.hash.replace("large-", "");
});
show();
