// The report's figures, drawn by Plotly from the data in the page. Nothing is fetched.
"use strict";
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
let chosen = 0;

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");
const shown = (value, digits) => value === null ? "none" : value.toFixed(digits);

function color(weight, alpha = 1) {
  const rank = data.weights.indexOf(weight) / Math.max(1, data.weights.length - 1);
  // the ends of the scale that a light, or a dark, page would swallow are left out
  const place = (dark.matches ? 0.3 + 0.7 * rank : 0.82 * rank) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2), part = place - low;
  const mix = VIRIDIS[low].map((from, i) => Math.round(from + part * (VIRIDIS[low + 1][i] - from)));
  return `rgba(${mix.join()},${alpha})`;
}

// on a phone beside the figure it would take a third of the width
const legend = matchMedia("(max-width: 40rem)").matches ? { orientation: "h", y: 1.02, yanchor: "bottom" } : {};

function layout(x, y, more = {}) {
  const axis = { gridcolor: style("--line"), zeroline: false, linecolor: style("--line") };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: style("--text"), size: 12 },
    margin: { l: 60, r: 10, t: 10, b: 45 }, hovermode: "closest", legend: { ...legend, title: { text: "AW" } },
    ...more,
    xaxis: { ...axis, title: { text: x }, ...more.xaxis }, yaxis: { ...axis, title: { text: y }, ...more.yaxis },
  };
}
const draw = (id, traces, where) =>
  Plotly.react(byId(id), traces, where, { responsive: true, displaylogo: false, displayModeBar: false });

const armName = arm => `${arm.aux_weight}${arm.detach_targets ? "" : ", attached"}`;
const armLine = arm => ({ color: color(arm.aux_weight), dash: arm.detach_targets ? "solid" : "dot" });

function drawEpochs() {
  const width = Number(byId("width-choice").value), measure = byId("measure-choice").value, traces = [];
  for (const arm of data.epochs.filter(arm => arm.hidden_size === width && arm.measure === measure)) {
    const around = [...arm.high, ...arm.low.slice().reverse()];
    if (around.every(value => value !== null))
      traces.push({ x: [...arm.epoch, ...arm.epoch.slice().reverse()], y: around, fill: "toself", mode: "lines",
        line: { width: 0 }, fillcolor: color(arm.aux_weight, 0.2), hoverinfo: "skip", showlegend: false });
    traces.push({ x: arm.epoch, y: arm.mean, mode: measure === "rlct" ? "lines+markers" : "lines", line: armLine(arm),
      name: armName(arm), hovertemplate: `AW ${armName(arm)}, epoch %{x}: %{y:.4f}<extra></extra>` });
  }
  draw("epochs", traces, layout("epoch", `${data.measures[measure]}, h = ${width}`));
}

// arms of one width stand side by side around it
const place = (width, arm, seed = null) => {
  const step = 0.8 / data.arms.length;
  const spread = seed === null ? 0 : (data.seeds.indexOf(seed) / Math.max(1, data.seeds.length - 1) - 0.5) * 0.7 * step;
  return data.widths.indexOf(width) + (arm - (data.arms.length - 1) / 2) * step + spread;
};

function drawMeasure(measure, title) {
  const traces = [];
  data.arms.forEach((arm, i) => {
    const own = data.networks.filter(n => n.aux_weight === arm.aux_weight && n.detach_targets === arm.detach_targets);
    const bad = n => measure === "rlct" && n.rlct_status !== "ok";
    traces.push({
      x: own.map(n => place(n.hidden_size, i, n.seed)), y: own.map(n => n[measure]), mode: "markers", showlegend: false,
      customdata: own.map(n => n.index), text: own.map(describe), hovertemplate: "%{text}<extra></extra>",
      marker: { size: 6, color: color(arm.aux_weight, 0.75), symbol: own.map(n => bad(n) ? "circle-open" : "circle") },
    });
    const means = data.means.filter(m => m.measure === measure && m.arm === i && m.mean !== null);
    traces.push({
      x: means.map(m => place(m.hidden_size, i)), y: means.map(m => m.mean), mode: "lines+markers", line: armLine(arm),
      marker: { size: 10, symbol: "diamond", line: { width: 1, color: style("--text") } }, name: armName(arm),
      error_y: { type: "data", symmetric: false, array: means.map(m => m.high === null ? 0 : m.high - m.mean),
        arrayminus: means.map(m => m.low === null ? 0 : m.mean - m.low), color: style("--text"), thickness: 1 },
      text: means.map(m => `h ${m.hidden_size}, AW ${armName(arm)}: mean of ${m.count}`),
      hovertemplate: "%{text}: %{y:.4g}<extra></extra>",
    });
    const paper = data.published.filter(p => p.measure === measure && p.arm === i);
    if (paper.length) traces.push({
      x: paper.map(p => place(p.hidden_size, i)), y: paper.map(p => p.value), mode: "markers", showlegend: false,
      marker: { symbol: "x-thin", size: 11, line: { width: 2, color: color(arm.aux_weight) } },
      text: paper.map(p => `h ${p.hidden_size}, AW ${armName(arm)}`), hovertemplate: "published, %{text}: %{y}<extra></extra>",
    });
  });
  // one width: its arms stand side by side, and so the axis tells them apart
  const single = data.widths.length === 1, axis = single ? "AW" : "hidden units";
  const ticks = single
    ? { tickvals: data.arms.map((_, i) => place(data.widths[0], i)), ticktext: data.arms.map(armName) }
    : { tickvals: data.widths.map((_, i) => i), ticktext: data.widths.map(String) };
  const figure = draw(measure, traces, layout(axis, title, { xaxis: ticks }));
  if (!byId(measure).dataset.listens) {
    byId(measure).dataset.listens = "yes";
    figure.then(plot => plot.on("plotly_click", event => {
      const index = event.points[0].customdata;
      if (index !== undefined) { show(index); byId("network").scrollIntoView(); }
    }));
  }
}

function describe(n) {
  return escaped(`${n.name}`) + `<br>accuracy ${shown(n.accuracy, 4)}, SD ${shown(n.weight_width, 4)}` +
    `<br>RLCT ${shown(n.rlct, 2)} ± ${shown(n.rlct_standard_error, 2)} (${escaped(n.rlct_status)})` +
    `<br>nβ ${shown(n.nbeta, 2)}, ${escaped(n.rlct_preset)}`;
}

function show(index) {
  chosen = (index + data.networks.length) % data.networks.length;
  const n = data.networks[chosen];
  byId("network-choice").value = chosen;
  byId("network-text").textContent = `${n.name}: accuracy ${shown(n.accuracy, 4)}, weight width ` +
    `${shown(n.weight_width, 4)}, RLCT ${shown(n.rlct, 2)} ± ${shown(n.rlct_standard_error, 2)} at nβ ` +
    `${shown(n.nbeta, 2)}, ${n.rlct_status}: ${n.rlct_status_reason}` + (n.trace ? "" : " (its trace was not kept)");
  const chains = n.trace ? n.trace.chains.map((values, i) => ({
    x: values.map((_, k) => (k + 0.5) * n.trace.draws / values.length), y: values, mode: "lines",
    name: `chain ${i}`, line: { width: 1 }, hovertemplate: `chain ${i}, draw %{x:.0f}: %{y:.2f}<extra></extra>`,
  })) : [];
  const burnin = n.trace ? [{ type: "rect", yref: "paper", x0: 0, x1: n.trace.burnin, y0: 0, y1: 1, line: { width: 0 },
    fillcolor: style("--line"), opacity: 0.4 }, { type: "line", x0: n.trace.burnin, x1: n.trace.draws, y0: n.rlct,
    y1: n.rlct, line: { dash: "dash", color: style("--text") } }] : [];
  const missing = n.trace ? [] : [{ text: "not kept", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  draw("trace", chains, layout("draw", "nβ (L(w) - L(w*))", { shapes: burnin.filter(s => s.yref || n.rlct !== null),
    annotations: missing, legend }));
  const { counts, low, high } = n.histogram, step = (high - low) / counts.length;
  draw("weights", [{ type: "bar", x: counts.map((_, i) => low + (i + 0.5) * step), y: counts, width: step,
    marker: { color: color(n.aux_weight) }, hovertemplate: "%{x:.3f}: %{y} weights<extra></extra>" }],
    layout("weight", "weights"));
}

function drawAll() {
  drawEpochs();
  for (const [measure, title] of Object.entries(data.measures)) drawMeasure(measure, title);
  show(chosen);
}

async function start() {
  const packed = Uint8Array.from(atob(byId("plotly").textContent), character => character.charCodeAt(0));
  const text = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = text;
  document.head.append(script);
  drawAll();
  for (const id of ["width-choice", "measure-choice"]) byId(id).addEventListener("change", drawEpochs);
  byId("network-choice").addEventListener("change", event => show(Number(event.target.value)));
  byId("previous").addEventListener("click", () => show(chosen - 1));
  byId("next").addEventListener("click", () => show(chosen + 1));
  const numbers = new Map(data.networks.map(n => [n.name, n.index]));
  document.addEventListener("click", event => {
    const name = event.target.dataset?.network;
    if (name !== undefined) show(numbers.get(name));
  });
  dark.addEventListener("change", drawAll);
  document.documentElement.dataset.readyAfter = Math.round(performance.now());
}
start().catch(error => {
  const line = document.createElement("p");
  line.setAttribute("role", "alert");
  line.textContent = `The figures could not be drawn (${error.message}); a newer browser may. All numbers are in the tables.`;
  byId("figures").prepend(line);
});
