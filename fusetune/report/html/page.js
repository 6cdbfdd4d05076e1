"use strict";
(() => {
  const table = document.getElementById("candidates-table");
  const rows = table ? [...table.tBodies[0].rows] : [];
  const points = rows.filter((row) => !("fell" in row.dataset));
  const own = [...document.querySelectorAll("#candidates circle[data-i]")];

  // Times and sizes have units; what is no number is ordered as text.
  const units = { us: 1, ms: 1e3, s: 1e6, B: 1, KiB: 1024, MiB: 1048576, x: 1, "%": 1 };
  function key(row, column) {
    const text = (row.cells[column]?.textContent ?? "").replace(/^predicted\s+/, "").trim();
    const found = /^([+-]?[\d.,]+)\s*(us|ms|s|B|KiB|MiB|x|%)?(?=$|[\s[(])/.exec(text);
    return found ? Number(found[1].replaceAll(",", "")) * (units[found[2]] ?? 1) : text;
  }

  function sortBy(body, header) {
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const held = [...body.rows].map((row) => [key(row, column), row]);
    held.sort(([a], [b]) => {
      if (a === "-" || b === "-") return (a === "-") - (b === "-");
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    });
    body.append(...held.map(([, row]) => row));
  }
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("table").tBodies[0], button.closest("th")));
  }

  function filter() {
    const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = document.getElementById("status").value;
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && (!status || row.cells[7].textContent === status));
      shown += row.hidden ? 0 : 1;
    }
    document.querySelector("output").textContent = `${shown} shown`;
    for (const point of own) point.classList.toggle("dim", points[point.dataset.i].hidden);
  }
  for (const id of ["filter", "status"]) document.getElementById(id)?.addEventListener("input", filter);

  const choice = document.getElementById("axis");
  choice?.addEventListener("change", () => {
    const axis = JSON.parse(document.getElementById("axes").textContent)[choice.value];
    const svg = document.querySelector("#candidates .plot svg");
    for (const point of own) {
      const at = axis.x[point.dataset.i];
      point.setAttribute("visibility", at === null ? "hidden" : "visible");
      point.setAttribute("cx", `${at ?? 0}%`);
    }
    const [grid, ticks] = svg.querySelectorAll(".grid.xs, .ticks.xs");
    const made = (name, at, attributes) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key_, value] of Object.entries(attributes)) one.setAttribute(key_, value);
      return one;
    };
    grid.replaceChildren(...axis.ticks.map(([at]) => made("line", at, { x1: `${at}%`, x2: `${at}%`, y1: 0, y2: "100%" })));
    ticks.replaceChildren(...axis.ticks.map(([at, label]) => {
      const text = made("text", at, { x: `${at}%`, y: "100%", dy: "1.5em" });
      text.textContent = label;
      return text;
    }));
    svg.querySelector(".title.x").textContent = axis.title;
  });

  // What a candidate is, where a pointer rests on its point, or a finger touched it.
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  function tell(event) {
    const point = event.target.closest?.("[data-i]");
    const row = point && points[point.dataset.i];
    tip.hidden = !row;
    if (!row) return;
    const [config, time, , , registers, shared, stack, status] = [...row.cells].map((cell) => cell.textContent);
    const used = registers === "-" ? [] : [`${registers} registers, ${shared} shared memory`,
      stack === "0 B" ? "no spill" : `spills ${stack} a thread`];
    tip.textContent = [config, time, ...used, status].join("\n");
    const place = point.getBoundingClientRect();
    const left = Math.min(place.right + 8, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 8) + window.scrollX}px`;
    tip.style.top = `${place.bottom + 8 + window.scrollY}px`;
  }
  document.addEventListener("pointerover", tell);
  document.addEventListener("click", (event) => {
    tell(event);
    const point = event.target.closest?.("[data-i]");
    for (const row of rows) row.classList.toggle("found", Boolean(point) && row === points[point.dataset.i]);
  });

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const from = button.parentNode.querySelector("code, pre");
      const done = await copied(from.textContent);
      if (!done) getSelection().selectAllChildren(from);
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 2500);
    });
  }
  document.documentElement.dataset.ready = "true";
})();
