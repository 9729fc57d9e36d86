/* Sorting and filtering of the table; without it the page is whole. */
"use strict";
(() => {
  const table = document.getElementById("certificates"), body = table && table.tBodies[0];
  if (!body) return;
  const rows = [...body.rows], headings = [...table.tHead.rows[0].cells], bar = document.getElementById("filters");
  let sorted = -1, direction = 1;
  const key = (row, column) => {
    const cell = row.cells[column], number = parseFloat(cell.dataset.key);
    return "key" in cell.dataset ? (Number.isNaN(number) ? Infinity : number) : cell.textContent.trim();
  };
  const sort = column => {
    direction = sorted === column ? -direction : 1;
    sorted = column;
    const order = (a, b) => (a < b ? -direction : a > b ? direction : 0);
    body.append(...[...rows].sort((a, b) => order(key(a, column), key(b, column))));
    headings.forEach((heading, at) => heading.setAttribute("aria-sort", at !== column ? "none" : direction > 0 ? "ascending" : "descending"));
  };
  headings.forEach((heading, column) => {
    if ("fixed" in heading.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(column));
    heading.replaceChildren(button);
  });
  const text = document.createElement("input"), word = document.createElement("select"), shown = document.createElement("output");
  text.type = "search";
  text.placeholder = "model, scenario or gate";
  text.setAttribute("aria-label", "Show rows that contain");
  word.setAttribute("aria-label", "Show rows by outcome");
  for (const name of ["any outcome", ...new Set(rows.map(row => row.dataset.word))]) word.add(new Option(name));
  const filter = () => {
    const wanted = text.value.toLowerCase(), all = word.selectedIndex === 0;
    for (const row of rows) row.hidden = !(row.textContent.toLowerCase().includes(wanted) && (all || row.dataset.word === word.value));
    const count = rows.filter(row => !row.hidden).length;
    shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} shown`;
  };
  text.addEventListener("input", filter);
  word.addEventListener("change", filter);
  bar.append(text, word, shown);
  bar.hidden = false;
})();
