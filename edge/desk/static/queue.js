// The queue by keys: Enter starts it, J and K walk through its rows.
"use strict";
// The list follows its filter without a new page; the button above it goes the same way.
document.getElementById("start")?.addEventListener("click", (event) => {
  event.currentTarget.href = `/next${location.search}`;
});
document.querySelector(".who a[hreflang]")?.addEventListener("click", (event) => {
  const address = new URLSearchParams(location.search);
  address.set("lang", event.currentTarget.hreflang);
  event.currentTarget.href = `?${address}`;
});
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, textarea, button, summary")) return;
  const rows = [...document.querySelectorAll("a.case")];
  if (event.key === "Enter" && !event.target.closest("a") && document.getElementById("start")) {
    document.getElementById("start").click();
  } else if (rows.length && (event.key === "j" || event.key === "k")) {
    const at = rows.indexOf(document.activeElement);
    const to = event.key === "j" ? at + 1 : Math.max(at - 1, 0);
    rows[Math.min(to, rows.length - 1)].focus();
  } else {
    return;
  }
  event.preventDefault();
});
