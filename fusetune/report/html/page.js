"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    const colors = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--soft") };
    const themedAxes = Object.fromEntries(axes.map((key) => [key, { ...colors, ...layout[key] }]));
    return {
      ...layout, ...themedAxes, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--text"), size: 12 }, hoverlabel: { bgcolor: css("--card"), font: { color: css("--text") } },
    };
  }

  function draw(place) {
    const figure = figures[place.id];
    if (!figure) return;
    Plotly.react(place, figure.data, themed(figure.layout), { responsive: true, displayModeBar: false });
    drawn.add(place);
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".plot").forEach((place) => near.observe(place));
  dark.addEventListener("change", () => drawn.forEach(draw));

  for (const choice of document.querySelectorAll("select[data-axis-of]")) {
    choice.addEventListener("change", () => {
      const figure = figures[choice.dataset.axisOf];
      const axis = figure.axes[choice.value];
      figure.data.forEach((trace, index) => { trace.x = axis.x[index]; });
      figure.layout.xaxis = { ...figure.layout.xaxis, title: { text: axis.title } };
      draw(document.getElementById(choice.dataset.axisOf));
    });
  }

  function key(row, column) {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text;
  }

  function sortBy(table, header) {
    const column = header.cellIndex;
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, two) => {
      const [a, b] = [key(one, column), key(two, column)];
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("table"), button.closest("th")));
  }

  function filter(section) {
    const words = section.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = section.querySelector("select[data-status]").value;
    const kept = [];
    let shown = 0;
    for (const row of section.querySelectorAll("table.candidates tbody tr")) {
      const text = row.textContent.toLowerCase();
      const matches = words.every((word) => text.includes(word)) && (!status || row.dataset.status === status);
      row.hidden = !matches;
      shown += matches ? 1 : 0;
      if (matches && row.dataset.point !== "") kept.push(Number(row.dataset.point));
    }
    section.querySelector("output").textContent = `${shown} shown`;
    const place = section.querySelector(".plot[id$=-candidates]");
    if (!place) return;
    const all = words.length === 0 && !status;
    figures[place.id].data[0].selectedpoints = all ? null : kept;
    if (drawn.has(place)) Plotly.restyle(place, { selectedpoints: [all ? null : kept] }, [0]);
  }

  for (const section of document.querySelectorAll("details.run")) {
    for (const control of section.querySelectorAll("input[type=search], select[data-status]")) {
      control.addEventListener("input", () => filter(section));
    }
  }
  document.documentElement.dataset.ready = "true";
})();
