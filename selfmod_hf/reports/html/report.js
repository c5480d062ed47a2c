// The report's figures, drawn by Plotly from the data in the page. Nothing is fetched.
"use strict";
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
// for named arms; each color stands out from the page (contrast of 3 or more)
const NAMED = {
  light: ["#1f77b4", "#c8501e", "#2a8a3a", "#8a5cc2", "#a8323e", "#0f7f86", "#b0308f", "#7a6a00", "#5a6b7f", "#8c564b"],
  dark: ["#6cb4ee", "#ff9c66", "#6fd36f", "#c9a4f0", "#ff8f96", "#4fd0dd", "#f59ad8", "#d6c84f", "#aab8c8", "#d6a999"],
};
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "star", "pentagon", "hexagram"];
const GLYPHS = ["●", "■", "▲", "◆", "▼", "★", "⬟", "✶"];
const DASHES = ["solid", "dot", "dash", "longdash", "dashdot", "longdashdot"];
const JITTER = 0.3; // width of an arm's marks, of the distance between arms
const hidden = new Set(); // positions of the arms that are not shown
let chosen = 0;

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const now = () => Math.round(performance.now());
const shown = (value, digits) => value === null ? "none" : value.toFixed(digits);

// ---- colors: of an arm's position ----

const others = data.axis.labels.map((_, i) => i).filter(i => i !== data.axis.baseline);
const cycles = data.axis.ordered ? 1 : Math.ceil(others.length / NAMED.light.length);

function color(position) {
  if (position === data.axis.baseline) return style("--text");
  const rank = others.indexOf(position);
  if (!data.axis.ordered) return NAMED[dark.matches ? "dark" : "light"][rank % NAMED.light.length];
  const part = rank / Math.max(1, others.length - 1);
  // the ends of the scale that a light, or a dark, page would swallow are left out
  const place = (dark.matches ? 0.35 + 0.65 * part : 0.1 + 0.6 * part) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mix = VIRIDIS[low].map((from, i) => Math.round(from + (place - low) * (VIRIDIS[low + 1][i] - from)));
  return `rgb(${mix.join()})`;
}
const faint = position => {
  const [r, g, b] = color(position).startsWith("#")
    ? [1, 3, 5].map(at => parseInt(color(position).slice(at, at + 2), 16)) : color(position).match(/\d+/g);
  return `rgba(${r},${g},${b},0.2)`;
};
const cycle = position => data.axis.ordered || position === data.axis.baseline
  ? 0 : Math.floor(others.indexOf(position) / NAMED.light.length);
const symbol = (position, panel = 0) => (panel * cycles + cycle(position)) % SYMBOLS.length;

// ---- panels ----

function panelsShown() {
  const choice = byId("panel-choice")?.value ?? "0";
  return choice === "all" ? data.panels : [data.panels[Number(choice)]];
}
const visible = panel => panel.arms.filter(i => !hidden.has(data.arms[i].position));
const networksOf = panel => {
  const arms = new Set(visible(panel));
  return data.networks.filter(n => arms.has(n.arm));
};
const meansOf = (panel, measure) => {
  const arms = visible(panel);
  return data.means.filter(m => m.measure === measure && m.mean !== null && arms.includes(m.arm));
};

// ends of the intervals of the arms of a panel
const boundsOf = (panel, measure) => meansOf(panel, measure).flatMap(m => [m.low, m.high]);

// ---- what all figures share ----

function layout(x, y, more = {}) {
  const axis = { gridcolor: style("--line"), zeroline: false, linecolor: style("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text"), size: 12 },
    margin: { l: 55, r: 10, t: 20, b: 40 }, hovermode: "closest", showlegend: false,
    ...more,
    xaxis: { ...axis, title: { text: x }, ...more.xaxis }, yaxis: { ...axis, title: { text: y, standoff: 8 }, ...more.yaxis },
  };
}
const draw = (id, traces, where) =>
  Plotly.react(byId(id), traces, where, { responsive: true, displaylogo: false, displayModeBar: false });

// As `axis_range` of the package: values with a margin, and intervals as far as they stay near to the values.
function range(measure, values, bounds = []) {
  const { low, high } = data.measures[measure] ?? { low: null, high: null };
  const finite = values.filter(value => value !== null && value !== undefined);
  if (!finite.length) return [low ?? 0, high ?? 1];
  const [least, most] = [Math.min(...finite), Math.max(...finite)];
  const spread = most - least || 0.1 * Math.abs(most) || 1;
  const near = bounds.filter(value => value !== null && value !== undefined).map(v => Math.min(most + spread, Math.max(least - spread, v)));
  const ends = [Math.min(least, ...near), Math.max(most, ...near)];
  const margin = 0.05 * (ends[1] - ends[0]) || spread;
  return [Math.max(low ?? -Infinity, ends[0] - margin), Math.min(high ?? Infinity, ends[1] + margin)];
}

const within = (value, measure) => {
  const { low, high } = data.measures[measure];
  return Math.min(high ?? Infinity, Math.max(low ?? -Infinity, value));
};

// An RLCT that is not ok and far from all others is a triangle at the edge, and does not set the axis.
const isFar = (n, measure) => measure === "rlct" && n.is_far;
const notOk = (n, measure) => measure === "rlct" && n.rlct_status !== "ok";
const nearValues = (networks, measure) => networks.filter(n => !isFar(n, measure)).map(n => n[measure]);

function atEdge(n, measure, [low, high]) {
  if (!isFar(n, measure)) return n[measure];
  return n[measure] < low ? low + 0.02 * (high - low) : high - 0.02 * (high - low);
}

function symbolOf(n, measure, panel, [low]) {
  if (isFar(n, measure)) return n[measure] < low ? "triangle-down-open" : "triangle-up-open";
  return SYMBOLS[symbol(data.arms[n.arm].position, panel)] + (notOk(n, measure) ? "-open" : "");
}

function marks(networks, x, measure, panel, limits) {
  return {
    x, y: networks.map(n => atEdge(n, measure, limits)), mode: "markers", customdata: networks.map(n => n.index),
    text: networks.map(describe), hovertemplate: "%{text}<extra></extra>",
    marker: { size: 6, opacity: networks.map(n => notOk(n, measure) ? 1 : 0.55),
      color: networks.map(n => color(data.arms[n.arm].position)),
      symbol: networks.map(n => symbolOf(n, measure, panel, limits)) },
  };
}

function diamonds(means, x, measure) {
  const arms = means.map(m => data.arms[m.arm]);
  return {
    x, y: means.map(m => m.mean), mode: "markers",
    marker: { size: 10, symbol: arms.map(arm => arm.baseline ? "square" : "diamond"),
      color: arms.map(arm => color(arm.position)), line: { width: 1, color: style("--soft") } },
    error_y: { type: "data", symmetric: false, color: style("--text"), thickness: 1,
      array: means.map(m => m.high === null ? 0 : within(m.high, measure) - m.mean),
      arrayminus: means.map(m => m.low === null ? 0 : m.mean - within(m.low, measure)) },
    text: means.map((m, i) => `${escaped(arms[i].name)}: mean of ${m.count}`),
    hovertemplate: "%{text}: %{y:.4g}<extra></extra>",
  };
}

// ---- the figures ----

function drawArms(id, measure) {
  const traces = [], shapes = [], annotations = [], ticks = [], names = [], panels = panelsShown();
  const limits = limitsOfArms(panels, measure);
  let start = 0;
  for (const panel of panels) {
    const arms = visible(panel), places = [...new Set(arms.map(i => data.arms[i].position))].sort((a, b) => a - b);
    const at = arm => start + places.indexOf(data.arms[arm].position);
    const own = networksOf(panel), means = meansOf(panel, measure);
    const paper = data.published.filter(p => p.measure === measure && arms.includes(p.arm));
    traces.push(marks(own, own.map(n => at(n.arm) + beside(n)), measure, 0, limits));
    traces.push(diamonds(means, means.map(m => at(m.arm)), measure));
    if (paper.length) traces.push({
      x: paper.map(p => at(p.arm)), y: paper.map(p => p.value), mode: "markers",
      marker: { symbol: "x-thin", size: 11, line: { width: 2, color: style("--text") } },
      text: paper.map(p => escaped(data.arms[p.arm].name)), hovertemplate: "published, %{text}: %{y}<extra></extra>",
    });
    for (const mean of means.filter(m => data.arms[m.arm].baseline)) shapes.push({
      type: "line", x0: start - 0.5, x1: start + places.length - 0.5, y0: mean.mean, y1: mean.mean,
      line: { dash: "dot", width: 1, color: style("--text") },
    });
    if (panels.length > 1) annotations.push({ text: inLines(panel.name), showarrow: false, yref: "paper", y: 1,
      yanchor: "bottom", x: start + (places.length - 1) / 2, font: { size: 10 } });
    for (const [i, position] of places.entries()) {
      const label = escaped(data.axis.labels[position]);
      ticks.push(start + i);
      names.push(position === data.axis.baseline ? `<b>${label}</b>` : label);
    }
    start += places.length + 1;
  }
  const lines = Math.max(0, ...annotations.map(note => note.text.split("<br>").length));
  draw(id, traces, layout(data.axis.title, data.measures[measure].title, { shapes, annotations,
    margin: { l: 55, r: 10, t: 10 + 12 * lines, b: 40 },
    xaxis: { tickvals: ticks, ticktext: names, range: [-0.6, start - 1.4], showgrid: false,
      autotickangles: [0, -45, -90] }, // at 30, the default, the last long name would leave the figure and be hidden
    yaxis: { range: limits } }));
  listen(id);
}

const beside = n => {
  const last = data.seeds.length - 1;
  return last ? JITTER * (data.seeds.indexOf(n.seed) / last - 0.5) : 0;
};
// the name of a panel, broken where its parts meet
const inLines = name => escaped(name).replaceAll("-", "-<br>");

function limitsOfArms(panels, measure) {
  const values = [], bounds = [];
  for (const panel of panels) {
    const paper = data.published.filter(p => p.measure === measure && visible(panel).includes(p.arm));
    values.push(...nearValues(networksOf(panel), measure), ...paper.map(p => p.value));
    bounds.push(...boundsOf(panel, measure));
  }
  return range(measure, values, bounds);
}

function drawPair(id, xMeasure, measure) {
  const traces = [], panels = panelsShown(), networks = panels.flatMap(networksOf);
  const ways = xMeasure !== "train_loss" ? [] : data.ways.filter(way =>
    way[measure] && panels.some(panel => visible(panel).includes(way.arm)));
  const bounds = panels.flatMap(panel => boundsOf(panel, measure));
  const limits = range(measure, nearValues(networks, measure), [...bounds, ...ways.flatMap(way => way[measure])]);
  for (const way of ways) traces.push({
    x: way.classification_loss, y: way[measure], mode: "lines", text: way.epoch,
    line: { color: style("--text"), width: 1.5, dash: "dash" },
    hovertemplate: `${escaped(data.arms[way.arm].name)}, epoch %{text}: %{y:.4g}<extra></extra>`,
  });
  for (const panel of panels) {
    const own = networksOf(panel);
    traces.push(marks(own, own.map(n => n[xMeasure]), measure, data.panels.indexOf(panel), limits));
    const over = new Map(meansOf(panel, xMeasure).map(m => [m.arm, m.mean]));
    const means = meansOf(panel, measure).filter(m => over.has(m.arm));
    traces.push(diamonds(means, means.map(m => over.get(m.arm)), measure));
  }
  const losses = ways.flatMap(way => way.classification_loss);
  draw(id, traces, layout(data.measures[xMeasure].title, data.measures[measure].title,
    { xaxis: { range: range(xMeasure, nearValues(networks, xMeasure), losses) }, yaxis: { range: limits } }));
  listen(id);
}

function drawChosen() {
  const measure = byId("measure-choice").value, over = byId("axis-choice").value;
  if (over) drawPair("chosen", over, measure); else drawArms("chosen", measure);
}

function drawEpochs() {
  const measure = byId("epochs-choice").value, traces = [], ys = [], bounds = [];
  for (const panel of panelsShown()) {
    const arms = visible(panel), dash = DASHES[data.panels.indexOf(panel) % DASHES.length];
    for (const curve of data.epochs.filter(c => c.measure === measure && arms.includes(c.arm))) {
      const { position, name } = data.arms[curve.arm];
      const around = [...curve.high, ...curve.low.slice().reverse()];
      if (around.every(value => value !== null)) traces.push({
        x: [...curve.epoch, ...curve.epoch.slice().reverse()], y: around.map(value => within(value, measure)),
        fill: "toself", mode: "lines", line: { width: 0 }, fillcolor: faint(position), hoverinfo: "skip",
      });
      traces.push({ x: curve.epoch, y: curve.mean, mode: measure === "rlct" ? "lines+markers" : "lines",
        line: { color: color(position), dash: cycle(position) ? "dashdot" : dash },
        hovertemplate: `${escaped(name)}, epoch %{x}: %{y:.4f}<extra></extra>` });
      ys.push(...curve.mean);
      bounds.push(...curve.low, ...curve.high);
    }
  }
  draw("epochs", traces, layout("epoch", data.measures[measure].title, { yaxis: { range: range(measure, ys, bounds) } }));
}

function listen(id) {
  const plot = byId(id);
  if (plot.dataset.listens) return;
  plot.dataset.listens = "yes";
  plot.on("plotly_click", event => {
    const index = event.points[0].customdata;
    if (index !== undefined) { show(index); byId("network").scrollIntoView(); }
  });
}

function metricOf(n) {
  return `${data.metric.replaceAll("_", " ")} ${shown(n[data.metric], 4)}`;
}

function describe(n) {
  return escaped(`${n.name}`) + `<br>${metricOf(n)}, SD ${shown(n.weight_width, 4)}, training loss ` +
    `${shown(n.train_loss, 4)}<br>RLCT ${shown(n.rlct, 2)} ± ${shown(n.rlct_standard_error, 2)} (${escaped(n.rlct_status)})` +
    `<br>nβ ${shown(n.nbeta, 2)}, ${escaped(n.rlct_preset)}`;
}

// ---- one network ----

const NOT_KEPT = { text: "not kept", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 };

function show(index) {
  chosen = (index + data.networks.length) % data.networks.length;
  describeNetwork();
  drawTrace();
  drawWeights();
}

function describeNetwork() {
  const n = data.networks[chosen];
  byId("network-choice").value = chosen;
  byId("network-text").textContent = `${n.name}: ${metricOf(n)}, weight width ` +
    `${shown(n.weight_width, 4)}, training loss ${shown(n.train_loss, 4)}, RLCT ${shown(n.rlct, 2)} ± ` +
    `${shown(n.rlct_standard_error, 2)} at nβ ${shown(n.nbeta, 2)}, ${n.rlct_status}: ${n.rlct_status_reason}` +
    (n.trace ? "" : " (its trace was not kept)");
}

function drawTrace() {
  const { trace, rlct } = data.networks[chosen], shapes = [], annotations = [];
  const palette = NAMED[dark.matches ? "dark" : "light"];
  const chains = (trace?.chains ?? []).map((values, i) => ({
    x: values.map((_, k) => (k + 0.5) * trace.draws / values.length), y: values, mode: "lines", name: `chain ${i}`,
    line: { width: 1, color: palette[i % palette.length] },
    hovertemplate: `chain ${i}, draw %{x:.0f}: %{y:.2f}<extra></extra>`,
  }));
  if (trace) shapes.push({ type: "rect", yref: "paper", x0: 0, x1: trace.burnin, y0: 0, y1: 1, line: { width: 0 },
    fillcolor: style("--line"), opacity: 0.4 });
  else annotations.push(NOT_KEPT);
  if (trace && rlct !== null) shapes.push({ type: "line", x0: trace.burnin, x1: trace.draws, y0: rlct, y1: rlct,
    line: { dash: "dash", color: style("--text") } });
  draw("trace", chains, layout("draw", "nβ (L(w) - L(w*))", { shapes, annotations, showlegend: chains.length <= 8,
    legend: { orientation: "h", y: 1, yanchor: "bottom" } }));
}

function drawWeights() {
  const n = data.networks[chosen];
  if (!n.histogram) {
    draw("weights", [], layout("weight", "weights", { annotations: [NOT_KEPT] }));
    return;
  }
  const { counts, low, high } = n.histogram, step = (high - low) / counts.length;
  draw("weights", [{ type: "bar", x: counts.map((_, i) => low + (i + 0.5) * step), y: counts, width: step,
    marker: { color: color(data.arms[n.arm].position) }, hovertemplate: "%{x:.3f}: %{y} weights<extra></extra>" }],
    layout("weight", "weights"));
}

// ---- the legend of all figures ----

function drawLegend() {
  byId("arms").replaceChildren(...data.axis.labels.map((label, position) => {
    const button = document.createElement("button"), mark = document.createElement("span");
    mark.className = "mark";
    mark.ariaHidden = "true";
    mark.textContent = GLYPHS[symbol(position)];
    mark.style.color = color(position);
    button.type = "button";
    button.ariaPressed = String(!hidden.has(position));
    const value = data.axis.title ? `${data.axis.title} ${label}` : label;
    button.append(mark, position === data.axis.baseline ? `${value} (baseline)` : value);
    button.addEventListener("click", () => {
      if (!hidden.delete(position)) hidden.add(position);
      button.ariaPressed = String(!hidden.has(position));
      drawStudy();
    });
    return button;
  }));
  const panels = panelsShown();
  if (panels.length > 1) byId("arms").append(...panels.map(panel => {
    const text = document.createElement("span"), number = data.panels.indexOf(panel);
    text.className = "panel-key";
    text.textContent = `${panel.name}: ${GLYPHS[symbol(data.axis.baseline, number)]}, ${DASHES[number % DASHES.length]} line`;
    return text;
  }));
}

// ---- drawing: what is in view at once, the rest figure by figure, so that the page answers meanwhile ----

const FIGURES = {
  ...Object.fromEntries(data.glance.map(measure => [measure, () => drawArms(measure, measure)])),
  ...Object.fromEntries(data.against_loss.map(m => [`loss-${m}`, () => drawPair(`loss-${m}`, "train_loss", m)])),
  chosen: drawChosen, epochs: drawEpochs, trace: drawTrace, weights: drawWeights,
};
// input comes first, for at most a tenth of a second
const whenIdle = window.requestIdleCallback ? next => requestIdleCallback(next, { timeout: 100 }) : setTimeout;
let waiting = [], isDrawing = false;

function isInView(id) {
  const { top, bottom } = byId(id).getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

function drawNext() {
  const id = waiting.shift();
  isDrawing = id !== undefined;
  if (isDrawing) { FIGURES[id](); whenIdle(drawNext); } else document.documentElement.dataset.drawnAfter ??= now();
}

function drawStudy() {
  waiting = Object.keys(FIGURES);
  const first = waiting.filter(isInView);
  waiting = waiting.filter(id => !first.includes(id));
  for (const id of first) FIGURES[id]();
  if (!isDrawing) { isDrawing = true; whenIdle(drawNext); }
}

function drawAll() {
  drawLegend();
  drawStudy();
}

async function start() {
  const packed = Uint8Array.from(atob(byId("plotly").textContent), character => character.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
  data.networks.forEach((n, index) => { n.index = index; });
  describeNetwork();
  drawAll();
  byId("panel-choice")?.addEventListener("change", drawAll);
  for (const id of ["measure-choice", "axis-choice"]) byId(id).addEventListener("change", drawChosen);
  byId("epochs-choice").addEventListener("change", drawEpochs);
  byId("network-choice").addEventListener("change", event => show(Number(event.target.value)));
  byId("previous").addEventListener("click", () => show(chosen - 1));
  byId("next").addEventListener("click", () => show(chosen + 1));
  const numbers = new Map(data.networks.map(n => [n.name, n.index]));
  document.addEventListener("click", event => {
    const name = event.target.dataset?.network;
    if (name !== undefined) show(numbers.get(name));
  });
  dark.addEventListener("change", drawAll);
  document.documentElement.dataset.readyAfter = now();
}
start().catch(error => {
  const line = document.createElement("p");
  line.setAttribute("role", "alert");
  line.textContent = `The figures could not be drawn (${error.message}); a newer browser may. All numbers are in the tables.`;
  byId("figures").prepend(line);
});
