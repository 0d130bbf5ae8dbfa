"use strict";
// A click on a title sorts by it, another the other way; what is not measured stays last.
for (const table of document.querySelectorAll("table.sorts")) {
  const titles = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, place) => {
    const cell = row.cells[place];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent === "–" ? null : cell.textContent;
  };
  titles.forEach((title, place) => title.firstElementChild.addEventListener("click", () => {
    const down = title.getAttribute("aria-sort") === "ascending";
    titles.forEach((other) => other.removeAttribute("aria-sort"));
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const less = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
      return down ? -less : less;
    };
    const rows = [...body.rows].map((row) => [key(row, place), row]);
    body.append(...rows.sort((a, b) => order(a[0], b[0])).map(([, row]) => row));
  }));
}
// Every word must be in a row that stays.
for (const box of document.querySelectorAll("details.all")) {
  const rows = [...box.querySelectorAll("tbody tr")];
  box.querySelector("input[type=search]").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}
const enlarged = document.getElementById("enlarged");
for (const link of document.querySelectorAll("a.enlarges")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const shown = enlarged.querySelector("img"), figure = link.querySelector("img");
    shown.src = link.href;
    shown.alt = figure.alt;
    enlarged.querySelector("p").textContent = figure.alt;
    enlarged.showModal();
  });
}
enlarged.addEventListener("click", (event) => { if (event.target === enlarged) enlarged.close(); });
// A slider moves the sheets of its box.
for (const slider of document.querySelectorAll("input[type=range]")) {
  const names = slider.dataset.names.split(" ");
  const move = () => {
    slider.closest(".laps, .browser").style.setProperty(slider.dataset.variable, slider.value);
    slider.previousElementSibling.querySelector("output").textContent = names[slider.value];
  };
  slider.addEventListener("input", move);
  move(); // a browser may keep the place of a slider when the page is loaded again
}
