"use strict";
// The tables of a sweep follow the chart, which tells of each drawing: what its filters leave, and the front of that, as indices.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const engines = [...document.querySelectorAll(".engines tbody[data-point]")].map((body) => [body, Number(body.dataset.point)]);
  const points = [...document.querySelectorAll("#points tbody tr")];
  const frontBody = document.querySelector("#front tbody");
  const digits = (value) => value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

  function cell(tag, kind, ...children) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    made.append(...children);
    return made;
  }
  function frontRow(engine, latency, place) {
    const row = document.createElement("tr"), head = cell("th", "", engine.run), command = document.createElement("code");
    head.scope = "row";
    command.append(engine.command);
    row.append(head, cell("td", "", String(place + 1)), cell("td", "text", engine.name), cell("td", "", engine.score.toFixed(2)), cell("td", "", latency.toFixed(digits(latency))));
    for (const { key } of data.filters.filter((filter) => filter.axis)) row.append(cell("td", "text", engine.values[key]));
    row.append(cell("td", "text command", command));
    return row;
  }
  function mark(body, onFront) {
    const place = body.rows[0].querySelector("td.status"), sign = place.querySelector(".front");
    if (sign && !onFront) sign.remove();
    if (sign || !onFront) return;
    const made = cell("span", "front", "◆");
    for (const [name, value] of [["title", "on the Pareto front"], ["role", "img"], ["aria-label", "on the Pareto front"]]) made.setAttribute(name, value);
    place.querySelector(".mark").after(" ", made);
  }
  document.addEventListener("drawn", ({ detail }) => {
    const front = new Set(detail.front), wanted = new Set(detail.wanted);
    for (const [body, index] of engines) {
      body.hidden = !wanted.has(index);
      mark(body, front.has(index));
    }
    points.forEach((row, index) => { row.hidden = detail.isOff(data.runs[index]); });
    frontBody.replaceChildren(...detail.front.map((index, place) => frontRow(data.points[index], detail.latencies[place], place)));
  });
})();
