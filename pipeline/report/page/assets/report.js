"use strict";
// The accuracy-latency chart and the sortable tables of a report. Every text goes in as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const MISSING = "–";
  const MOST_NAMED = 30;  // engines: of more, the chart names those on the front alone
  const SVG = "http://www.w3.org/2000/svg";
  const SHAPES = [
    "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0Z", "M-5.4,-5.4H5.4V5.4H-5.4Z", "M0,-7L7,5H-7Z", "M0,-7.4L7.4,0L0,7.4L-7.4,0Z",
    "M-2.2,-6.6h4.4v4.4h4.4v4.4h-4.4v4.4h-4.4v-4.4h-4.4v-4.4h4.4Z", "M0,7L7,-5H-7Z",
    "M-6.8,-3.6L0,-7.4L6.8,-3.6V3.6L0,7.4L-6.8,3.6Z", "M-7,-3.4H7V3.4H-7Z",
  ];

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  function shape(tag, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const number = (value, digits = 2) => value === null ? MISSING : value.toFixed(digits).replace("-", "−");
  const quantity = (value) => value === null ? MISSING : number(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
  function signed(value) {
    const text = value.toFixed(2);
    return Number(text) === 0 ? "0.00" : (value > 0 ? "+" : "") + text.replace("-", "−");
  }

  // ---- sortable tables: one tbody a row, what was not measured last in either direction
  function sortTable(table, column, descending) {
    const key = (body) => {
      const value = body.rows[0].cells[column].dataset.value;
      return value === undefined ? null : value === "" || isNaN(value) ? value : Number(value);
    };
    const order = [...table.tBodies].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
    });
    table.append(...order);
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const choice = element("select");
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = /^(Top|Agreement|Img|Δ)/.test(button.textContent);  // more is better: the best first
        const now = head.getAttribute("aria-sort");
        sortTable(table, column, now ? now === "ascending" : first);
        choice.value = column;
      });
      choice.append(element("option", { value: column }, button.textContent));
    });
    choice.addEventListener("change", () => heads[choice.value].querySelector("button").click());
    table.parentElement.before(element("label", { class: "sorter" }, "Sort by ", choice));
  }

  // ---- the chart
  const root = document.getElementById("chart");
  if (!root || !data || !data.points.length) return;
  const slots = Object.fromEntries(data.series.map((series) => [series.name, series.slot % SHAPES.length]));
  const state = {
    hidden: new Set(), off: {}, batch: data.batches.includes("1") ? "1" : data.batches[0], tail: "p50",
    budget: data.budget ?? Infinity, least: data.least ?? -Infinity,
  };
  let focused = null;

  const latency = (point) => (point.latency[state.batch] || {})[state.tail] ?? null;
  const indices = new Map(data.points.map((point, index) => [point, index]));
  const indexOf = (point) => indices.get(point);
  const passes = (point) => point.status === "pass";
  // `filters`, of a sweep: keys of `point.values`, of each the values that are switched off
  const filters = data.filters || [];
  for (const filter of filters) state.off[filter.key] = new Set();
  const isOff = (values) => filters.some((filter) => state.off[filter.key].has(values[filter.key]));
  const wanted = () => data.points.filter((point) => !state.hidden.has(point.series) && !(point.values && isOff(point.values)));
  const shown = () => wanted().filter((point) => latency(point) !== null && point.top1 !== null);

  function paretoFront(points) {
    const front = [];
    for (const point of [...points].sort((a, b) => latency(a) - latency(b) || b.top1 - a.top1)) {
      const last = front[front.length - 1];
      if (!last || point.top1 > last.top1 || (point.top1 === last.top1 && latency(point) === latency(last))) front.push(point);
    }
    return front;
  }
  // accuracies on different images are not comparable: then there is neither a front nor a winner
  const datasets = (points) => [...new Set(points.map((point) => point.dataset))];
  const better = (a, b) => b.top1 - a.top1 || latency(a) - latency(b) || (a.size ?? Infinity) - (b.size ?? Infinity);
  const findWinner = (points) => datasets(points).length > 1 ? null : points.filter((p) => passes(p) && latency(p) <= state.budget && p.top1 >= state.least).sort(better)[0] || null;

  // controls
  const form = element("form", { class: "controls", "aria-label": "What the chart shows" });
  form.addEventListener("submit", (event) => event.preventDefault());
  function choices(legend, kind, name, options, checked, change) {
    const set = element("fieldset", {}, element("legend", {}, legend));
    const inputs = [];
    for (const [value, label, icon] of options) {
      const input = element("input", { type: kind, name, value });
      input.checked = checked(value);
      input.addEventListener("change", () => { change(value, input.checked); });
      inputs.push(input);
      set.append(element("label", {}, input, ...(icon ? [icon] : []), label));
    }
    form.append(set);
    return { set, inputs };
  }
  // of a filter with many values: one press for all of them, in both directions
  function chooseAll({ set, inputs }, legend, change) {
    for (const [text, on] of [["all", true], ["none", false]]) {
      const button = element("button", { type: "button", "aria-label": `${legend}: ${text}` }, text);
      button.addEventListener("click", () => { for (const input of inputs) input.checked = on; change(on); });
      set.append(button);
    }
  }
  const icon = (slot) =>
    shape("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true", class: `c${slot}` }, shape("path", { d: SHAPES[slot], fill: "currentColor" }));
  choices(data.seriesTitle, "checkbox", "series", data.series.map((s) => [s.name, s.name, icon(slots[s.name])]), () => true,
    (value, checked) => { checked ? state.hidden.delete(value) : state.hidden.add(value); reset(state.budget); });
  for (const { key, values } of filters) {
    const made = choices(key, "checkbox", `axis-${key}`, values.map((value) => [value, value]), () => true,
      (value, checked) => { checked ? state.off[key].delete(value) : state.off[key].add(value); reset(state.budget); });
    if (values.length > 3) chooseAll(made, key, (on) => { state.off[key] = new Set(on ? [] : values); reset(state.budget); });
  }
  if (data.batches.length > 1) {
    choices("Batch size", "radio", "batch", data.batches.map((size) => [size, size]), (value) => value === state.batch,
      (value) => { state.batch = value; reset(); });
  }
  choices("Latency", "radio", "tail", ["p50", "p90", "p99"].map((tail) => [tail, tail]), (value) => value === state.tail,
    (value) => { state.tail = value; reset(); });
  const slider = element("input", { type: "range", id: "budget", min: 0, max: 1000, value: 1000, "aria-describedby": "winner" });
  const entry = element("input", { type: "number", id: "budget-ms", min: 0, step: "any", "aria-label": "Latency budget, milliseconds" });
  form.append(element("div", { class: "budget" }, element("label", { for: "budget", class: "label" }, "Latency budget"), slider,
    element("label", {}, entry, "ms")));
  if ("least" in data) {
    const least = element("input", { type: "number", id: "least", min: 0, max: 100, step: "any", placeholder: "none" });
    least.value = data.least ?? "";
    least.addEventListener("change", () => { state.least = least.value === "" ? -Infinity : Number(least.value); draw(); });
    form.append(element("div", { class: "least" }, element("label", {}, element("span", { class: "label" }, "At least"), least, "% top-1")));
  }
  const winner = element("p", { class: "winner", id: "winner", role: "status" });
  const plot = element("div", { class: "plot", id: "plot" });
  const left = element("p", { class: "note", id: "left-out" });
  const tip = element("div", { class: "tip", role: "tooltip", id: "tip" });
  tip.hidden = true;
  root.append(form, winner, plot, left);

  // the slider is logarithmic, from just under the fastest to the slowest of what is shown
  let range = [1, 2];
  const sliderToMs = (value) => range[0] * (range[1] / range[0]) ** (value / 1000);
  const msToSlider = (ms) => Math.round(1000 * Math.log(ms / range[0]) / Math.log(range[1] / range[0]));
  function reset(budget = data.budget ?? Infinity) {
    const values = shown().map(latency);
    if (values.length) range = [0.9 * Math.min(...values), 1.05 * Math.max(...values)];
    setBudget(budget);
  }
  function setBudget(ms) {
    state.budget = ms;
    slider.value = ms === Infinity ? 1000 : Math.max(0, Math.min(1000, msToSlider(ms)));
    entry.value = ms === Infinity ? "" : String(Number(ms.toPrecision(4)));
    entry.placeholder = "none";
    draw();
  }
  slider.addEventListener("input", () => setBudget(Number(slider.value) >= 1000 ? Infinity : sliderToMs(Number(slider.value))));
  entry.addEventListener("change", () => setBudget(Number(entry.value) > 0 ? Number(entry.value) : Infinity));

  const fullName = (point) => data.several ? `${point.series}: ${point.name}` : point.label ?? point.name;
  function sayWinner(points, best) {
    const where = `${state.tail}, batch ${state.batch}`;
    const least = state.least === -Infinity ? "" : ` with at least ${number(state.least)} % top-1`;
    const within = (state.budget === Infinity ? "Most accurate, without a budget" : `Most accurate within ${quantity(state.budget)} ms`) + least;
    const passing = points.filter(passes).sort((a, b) => latency(a) - latency(b));
    winner.replaceChildren();
    winner.classList.toggle("nobody", !best);
    winner.dataset.winner = best ? best.name : "";
    if (datasets(points).length > 1) {
      winner.append(`No winner among engines that were evaluated on different images (${datasets(points).join("; ")}): show runs of one set.`);
    } else if (best) {
      winner.append(`${within} (${where}): `, element("b", {}, fullName(best)),
        `, ${number(best.top1)} % top-1 in ${quantity(latency(best))} ms`);
      if (passing[0] !== best) winner.append(`. Fastest that passes: ${fullName(passing[0])}, ${quantity(latency(passing[0]))} ms.`);
      else winner.append(", also the fastest that passes.");
      if (best.about) winner.append(element("small", {}, best.about), element("span", { class: "next" }, "Next: ", element("code", {}, best.command)));
    } else if (passing.length) {
      const limit = state.budget === Infinity ? "Without a budget" : `Within ${quantity(state.budget)} ms`;
      winner.append(`${limit}${least} (${where}): no engine that passes. The fastest is ${fullName(passing[0])}, ${quantity(latency(passing[0]))} ms.`);
    } else winner.append(`No engine that passes was measured (${where}).`);
    slider.setAttribute("aria-valuetext", state.budget === Infinity ? "no budget" : `${quantity(state.budget)} milliseconds`);
  }

  function describe(point) {
    const lines = [`${point.backend} · ${point.precision}`,
      `top-1 ${number(point.top1)} %` + (point.delta_top1_pp === null ? "" :
        ` (${signed(point.delta_top1_pp)} pp [${point.ci95_pp.map(signed).join(", ")}])`),
      `agreement ${number(point.agreement)} %`];
    for (const size of data.batches) {
      const tails = point.latency[size];
      if (!tails) continue;
      const known = ["p50", "p90", "p99"].filter((tail) => tails[tail] !== null && tails[tail] !== undefined);
      lines.push(`batch ${size}: ${known.map((tail) => `${tail} ${quantity(tails[tail])}`).join(", ")} ms`);
    }
    if (!passes(point)) lines.push(`${point.status}: ${point.reason}`);
    return lines;
  }
  function showTip(point, node) {
    tip.replaceChildren(element("b", {}, fullName(point)), ...describe(point).map((line) => element("div", {}, line)));
    tip.hidden = false;
    const [area, mark] = [plot.getBoundingClientRect(), node.querySelector(".mark").getBoundingClientRect()];
    const x = mark.x - area.x + mark.width / 2, y = mark.y - area.y;
    tip.style.left = `${Math.max(0, Math.min(area.width - tip.offsetWidth, x - tip.offsetWidth / 2))}px`;
    tip.style.top = `${y - tip.offsetHeight - 10 > -60 ? y - tip.offsetHeight - 10 : y + mark.height + 10}px`;
  }
  const hideTip = () => { tip.hidden = true; };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

  // axes
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step) found.push(Number(at.toPrecision(10)));
    return found;
  }
  function logTicks(low, high) {
    const found = [], wide = high / low > 300;
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of wide ? [1] : [1, 2, 5]) found.push(digit * 10 ** power);
    }
    return found.filter((at) => at >= low && at <= high);
  }
  function accuracyWindow(points) {
    const lines = data.levels.map((level) => level.top1);
    const core = [...points.filter(passes).map((p) => p.top1), ...lines];
    const all = core.length ? core : points.map((p) => p.top1);
    const span = Math.max(Math.max(...all) - Math.min(...all), 0.5);
    const near = points.map((p) => p.top1).filter((top1) => top1 >= Math.min(...all) - 1.5 * span);
    const low = Math.min(...all, ...near), high = Math.max(...all, ...near);
    const margin = 0.14 * Math.max(high - low, 0.5);
    return [low - margin, high + margin];
  }

  function draw() {
    const points = shown(), best = findWinner(points);
    const front = datasets(points).length > 1 ? [] : paretoFront(points.filter(passes));
    sayWinner(points, best);
    document.dispatchEvent(new CustomEvent("drawn", { detail: { front: front.map(indexOf), wanted: wanted().map(indexOf), isOff,
      latencies: front.map(latency) } }));
    const unseen = wanted().filter((point) => !points.includes(point));
    left.textContent = !unseen.length ? ""
      : `Not in the chart, because they were not measured so: ${unseen.length > MOST_NAMED ? `${unseen.length} engines` : unseen.map(fullName).join(", ")}.`;
    hideTip();
    if (!points.length) {
      plot.replaceChildren(element("p", { class: "nothing" }, "Nothing to show: no engine of this choice was measured."));
      return;
    }
    const width = Math.max(300, Math.round(plot.clientWidth || 900)), narrow = width < 560;
    const height = narrow ? 330 : 430;
    const box = { left: 50, right: width - (narrow ? 10 : 136), top: 16, bottom: height - 44 };
    const values = points.map(latency), log = Math.max(...values) > 6 * Math.min(...values);
    const [xLow, xHigh] = log ? [0.75 * Math.min(...values), 1.4 * Math.max(...values)] : [0, 1.12 * Math.max(...values)];
    const [yLow, yHigh] = accuracyWindow(points);
    const across = (ms) => log ? Math.log(ms / xLow) / Math.log(xHigh / xLow) : (ms - xLow) / (xHigh - xLow);
    const x = (ms) => box.left + across(ms) * (box.right - box.left);
    const y = (top1) => box.bottom - (Math.max(top1, yLow) - yLow) / (yHigh - yLow) * (box.bottom - box.top);

    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label":
      `Chart of ${points.length} engines: top-1 accuracy against latency ${state.tail} at batch ${state.batch}` });
    const back = shape("g", { "aria-hidden": "true" });
    svg.append(back);
    const steps = ticks(yLow, yHigh, 5), digits = steps.length > 1 && steps[1] - steps[0] < 0.95 ? (steps[1] - steps[0] < 0.095 ? 2 : 1) : 0;
    for (const at of steps) {
      back.append(shape("line", { class: "grid", x1: box.left, x2: box.right, y1: y(at), y2: y(at) }),
        shape("text", { x: box.left - 8, y: y(at) + 4, "text-anchor": "end" }, at.toFixed(digits)));
    }
    for (const at of log ? logTicks(xLow, xHigh) : ticks(xLow, xHigh, narrow ? 4 : 8)) {
      back.append(shape("line", { class: "grid", x1: x(at), x2: x(at), y1: box.top, y2: box.bottom }),
        shape("text", { x: x(at), y: box.bottom + 18, "text-anchor": "middle" }, String(Number(at.toPrecision(6)))));
    }
    back.append(shape("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
      shape("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" },
        `latency ${state.tail} at batch ${state.batch}, ms${log ? ", logarithmic" : ""}`),
      shape("text", { transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "top-1, %"));
    drawLevels(back, box, y, narrow);
    if (front.length) {
      let path = `M${x(latency(front[0]))},${y(front[0].top1)}`;
      for (const point of front.slice(1)) path += `H${x(latency(point))}V${y(point.top1)}`;
      back.append(shape("path", { class: "front", d: `${path}H${box.right}` }));
    }
    if (state.budget !== Infinity) {
      const at = Math.max(box.left, Math.min(box.right, x(Math.max(state.budget, log ? xLow : 0))));
      back.append(shape("rect", { class: "beyond", x: at, y: box.top, width: box.right - at, height: box.bottom - box.top }),
        shape("line", { class: "limit", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    }
    const marks = [...points].sort((a, b) => latency(a) - latency(b)).map((point) =>
      drawPoint(svg, point, x(latency(point)), y(point.top1), point.top1 < yLow, point === best));
    plot.replaceChildren(svg, tip);
    const lines = data.levels.map((level) => [box.left, y(level.top1) - 2, box.right, y(level.top1) + 2]);
    if (narrow) data.levels.forEach((level, index) => lines.push([box.left, y(level.top1) + (index ? 2 : -17), box.left + 150, y(level.top1) + (index ? 17 : -2)]));
    placeLabels(marks, box, lines, best, front, narrow);
    if (focused) svg.querySelector(`[data-id="${focused}"]`)?.focus({ preventScroll: true });
  }

  function drawLevels(back, box, y, narrow) {
    const middle = data.levels.reduce((sum, level) => sum + y(level.top1), 0) / data.levels.length;
    const apart = data.levels.length > 1 ? Math.max(Math.abs(y(data.levels[0].top1) - y(data.levels[1].top1)), 34) : 0;
    data.levels.forEach((level, index) => {
      const at = y(level.top1), value = `${number(level.top1)} %`;
      back.append(shape("line", { class: level.kind, x1: box.left, x2: box.right, y1: at, y2: at }));
      if (narrow) {  // on the left, faster than any engine
        const below = index > 0 ? 14 : -5;
        back.append(shape("text", { class: level.kind, x: box.left + 4, y: at + below }, `${level.name} ${value}`));
      } else {
        const spot = data.levels.length > 1 ? middle + (index === 0 ? -apart : apart) / 2 : at;
        back.append(shape("text", { class: level.kind, x: box.right + 7, y: spot - 3 }, level.name),
          shape("text", { class: level.kind, x: box.right + 7, y: spot + 12 }, value));
      }
    });
  }

  function drawPoint(svg, point, x, y, below, best) {
    const late = latency(point) > state.budget;
    const id = String(indexOf(point));
    const words = [fullName(point), ...describe(point), best ? "the winner" : ""].filter(Boolean).join(", ");
    const node = shape("g", { class: `point c${slots[point.series]} ${passes(point) ? "pass" : "fail"}${best ? " best" : ""}${late ? " late" : ""}`,
      transform: `translate(${x} ${y})`, tabindex: 0, role: "img", "aria-label": words, "data-id": id, "data-name": point.name },
      shape("circle", { class: "ring", r: 11.5 }), shape("path", { class: "mark", d: below ? SHAPES[5] : SHAPES[slots[point.series]] }),
      shape("circle", { r: 14, fill: "transparent" }));
    node.addEventListener("pointerenter", () => showTip(point, node));
    node.addEventListener("pointerleave", hideTip);
    node.addEventListener("click", () => showTip(point, node));
    node.addEventListener("focus", () => { focused = id; showTip(point, node); });
    node.addEventListener("blur", () => { focused = null; hideTip(); });
    svg.append(node);
    return { point, node, x, y, below };
  }

  // beside its marker where that is free, else further off, else across a line, else nowhere: the tooltip still names it
  function placeLabels(marks, box, lines, best, front, narrow) {
    const taken = marks.map((mark) => [mark.x - 9, mark.y - 9, mark.x + 9, mark.y + 9]);
    const rank = (mark) => mark.point === best ? 0 : front.includes(mark.point) ? 1 : passes(mark.point) ? 3 : 2;
    const overlaps = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    for (const mark of [...marks].sort((a, b) => rank(a) - rank(b))) {
      if ((narrow || marks.length > MOST_NAMED) && rank(mark) > 1) continue;
      const own = mark.point.label ?? mark.point.name;
      const name = mark.below ? `${own} (${number(mark.point.top1, 1)} %)` : own;
      const text = shape("text", { "aria-hidden": "true" }, name);
      mark.node.append(text);
      const wide = text.getComputedTextLength() + 4;
      const spots = [[12, 4], [-12 - wide, 4], [-wide / 2, -13], [-wide / 2, 23], [10, -10], [10, 20], [-10 - wide, -10], [-10 - wide, 20],
        [-wide / 2, -28], [-wide / 2, 38], [14, -24], [14, 34], [-14 - wide, -24], [-14 - wide, 34]];
      const free = spots.map(([dx, dy]) => [dx, dy, [mark.x + dx, mark.y + dy - 11, mark.x + dx + wide, mark.y + dy + 4]])
        .filter(([, , area]) => area[0] >= box.left && area[2] <= box.right + (narrow ? 6 : 0) && area[1] >= box.top - 12 && area[3] <= box.bottom &&
          !taken.some((other) => overlaps(area, other)));
      const spot = free.find(([, , area]) => !lines.some((other) => overlaps(area, other))) || free[0];
      if (!spot) { text.remove(); continue; }
      text.setAttribute("x", spot[0]);
      text.setAttribute("y", spot[1]);
      taken.push(spot[2]);
    }
  }

  let seen = 0;
  new ResizeObserver(() => {
    if (Math.abs(plot.clientWidth - seen) > 1) { seen = plot.clientWidth; draw(); }
  }).observe(plot);
  reset();
  window.addEventListener("beforeprint", () => document.querySelectorAll("details.changes").forEach((part) => { part.open = true; }));
})();
