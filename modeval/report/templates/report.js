"use strict";
(() => {
  // --- light and dark -----------------------------------------------------------------------
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const button = document.createElement("button");
  const shown = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const other = () => (shown() === "dark" ? "light" : "dark");
  const name = () => { button.textContent = other() === "dark" ? "Dark" : "Light"; button.setAttribute("aria-label", `Change to ${other()} colours`); };
  button.type = "button";
  button.className = "theme";
  button.addEventListener("click", () => { root.dataset.theme = other(); name(); });
  dark.addEventListener("change", name);
  name();
  document.querySelector("header").prepend(button);

  // --- tables that sort ---------------------------------------------------------------------
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const key = (row, place) => {
    const cell = row.cells[place];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const order = (first, second) => {
    // numbers before words, and what is empty last, whichever way
    if (typeof first === "number" && typeof second === "number") return first - second;
    if (typeof first === "number") return -1;
    if (typeof second === "number") return 1;
    return compare(first, second);
  };
  const sort = (table, head, place) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, place), row]);
    const there = rows.filter(([value]) => value !== "");
    const missing = rows.filter(([value]) => value === "");
    there.sort(([first], [second]) => (down ? order(second, first) : order(first, second)));
    body.append(...[...there, ...missing].map(([, row]) => row));
    for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const words = head.textContent.trim();
      if (!words) return;
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.textContent = words;
      sorter.addEventListener("click", () => sort(table, head, place));
      head.replaceChildren(sorter);
      head.setAttribute("aria-sort", "none");
    });
  }

  // --- boxes that scroll are stops of the keyboard only where there is something to scroll ----
  const boxes = document.querySelectorAll(".scroll");
  const settle = () => {
    for (const box of boxes) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  window.addEventListener("resize", settle);
  for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", settle);
  settle();
})();
