// Sorts, filters and searches the table of scans, and enlarges pictures. The report is complete without it.
"use strict";
(() => {
  const table = document.getElementById("scans");
  if (table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    const words = rows.map((row) => row.textContent.toLowerCase());
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "file, lot, outcome or reason";
    search.setAttribute("aria-label", "Search the table of scans");
    const pick = document.createElement("select");
    pick.setAttribute("aria-label", "Show scans by outcome");
    for (const [value, name] of [["", "all scans"], ["mistake", "mistakes only"], ...[...new Set(rows.map((row) => row.dataset.outcome))].map((outcome) => [outcome, outcome])]) {
      pick.add(new Option(name, value));
    }
    const count = document.createElement("span");
    count.setAttribute("aria-live", "polite");
    const show = () => {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, at) => {
        const fits = (!pick.value || row.dataset.outcome === pick.value || (pick.value === "mistake" && row.dataset.mistake))
          && wanted.every((word) => words[at].includes(word));
        row.hidden = !fits;
        shown += fits;
      });
      count.textContent = `${shown} of ${rows.length} scans`;
    };
    search.addEventListener("input", show);
    pick.addEventListener("change", show);
    const bar = document.createElement("div");
    bar.className = "filter";
    bar.append(search, pick, count);
    table.closest(".scroll").before(bar);
    show();

    const value = (row, column) => {
      const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      return text === "" || isNaN(text) ? text.toLowerCase() : Number(text);
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = rows.map((row, at) => [value(row, column), at, row]);
        keyed.sort(([a, i], [b, j]) => {
          if (a === "" || b === "") return (a === "") - (b === "") || i - j; // what is not known stands last
          const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
          return (down ? -order : order) || i - j;
        });
        body.append(...keyed.map(([, , row]) => row));
      });
    });
  }

  const dialog = document.createElement("dialog");
  dialog.className = "zoom";
  dialog.addEventListener("click", () => dialog.close());
  document.body.append(dialog);
  for (const picture of document.querySelectorAll("svg.picture")) {
    const enlarge = () => {
      const copy = picture.cloneNode(true);
      copy.removeAttribute("tabindex");
      dialog.replaceChildren(copy);
      dialog.showModal();
    };
    picture.setAttribute("tabindex", "0");
    picture.addEventListener("click", enlarge);
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        enlarge();
      }
    });
  }
})();
