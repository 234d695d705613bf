// Charts by plotly, as SVG; each has a label for those who do not see it.
"use strict";
const drawn = new Map();
// Millions of characters: they are asked for when the first chart is, so that they hold up nothing.
let loading = null;
function ready() {
  loading ??= window.Plotly || inlined ? Promise.resolve() : new Promise((done, failed) => {
    document.head.append(el("script", { src: `${page.root}/static/plotly.min.js`, onload: done, onerror: failed }));
  });
  return loading;
}

// Plotly takes some HTML in texts; names from files are shown as they are.
const plain = (text) => visible(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function layout(more) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
  const made = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 13 },
    margin: { l: 56, r: 16, t: 12, b: 44 }, hovermode: "closest",
    legend: { orientation: "h", y: 1.12, x: 0 },
    colorway: [colour("accent"), colour("good"), colour("warn"), colour("bad"), colour("dim")],
    ...more,
  };
  for (const [name, value] of Object.entries(more)) {
    if (/^[xy]axis\d*$/.test(name)) made[name] = { ...axis, ...value };
  }
  return made;
}

function chart(label, figure, onclick = null, height = null) {
  const place = el("div", { class: "chart", role: "img", "aria-label": label, style: height ? `height:${height}px` : null });
  const draw = async () => {
    await ready();
    if (!place.isConnected) return;
    const { data, more } = figure();
    const first = !place.data;
    await Plotly.react(place, data, layout({ xaxis: {}, yaxis: {}, ...more }), { displayModeBar: false, responsive: true });
    if (first && onclick) place.on("plotly_click", (event) => onclick(event.points[0]));
  };
  for (const old of drawn.keys()) if (!old.isConnected && old.data) { Plotly.purge(old); drawn.delete(old); }
  drawn.set(place, draw);
  requestAnimationFrame(draw);
  return place;
}
document.addEventListener("theme", () => [...drawn.values()].forEach((draw) => draw()));

const isBest = (each, metric) => each.marks.includes(`best ${metric}`);
const finite = (each, metric) => (Object.hasOwn(each.metrics, metric) && typeof each.metrics[metric] === "number" ? each.metrics[metric] : null);
const shorter = (name) => (name.length > 28 ? `…${name.slice(-27)}` : name);

function timelineChart(facts, metric, onclick) {
  const whole_ = facts.checkpoints.filter((each) => each.problem === null);
  const hasSteps = whole_.some((each) => each.step !== null);
  const read = whole_.map((each, at) => (hasSteps ? each : { ...each, step: at })).filter((each) => each.step !== null);
  const figure = () => {
    const branches = [...new Set(read.map((each) => each.branch))];
    const data = branches.map((branch) => {
      const own = read.filter((each) => each.branch === branch);
      const from = read.find((each) => each.name === own[0].parent_name);
      const points = from ? [from, ...own] : own;  // a branch begins at what it went on from
      return {
        type: "scatter", mode: "lines+markers", name: branches.length > 1 ? `branch ${branch + 1}` : plain(metric ?? "saved"),
        x: points.map((each) => each.step), y: points.map((each) => (metric ? finite(each, metric) : each.nbytes)),
        text: points.map((each) => plain(`${each.name} ${each.marks.join(", ")}`)), customdata: points.map((each) => each.name),
        hovertemplate: "step %{x}<br>%{y}<br>%{text}<extra></extra>", line: { width: 2 },
        marker: {
          size: points.map((each) => (each.marks.length ? 12 : 7)),
          symbol: points.map((each) => `${isBest(each, metric) ? "star" : ""}${isBest(each, metric) && each.is_pinned ? "-" : ""}${each.is_pinned ? "square" : ""}` || "circle"),
          line: { width: points.map((each) => (each.marks.includes("latest") ? 3 : 0)), color: colour("good") },
        },
      };
    });
    const gaps = read.filter((each) => each.pruned);
    const shapes = gaps.map((each) => ({ type: "line", x0: each.step, x1: each.step, yref: "paper", y0: 0, y1: 1, line: { color: colour("dim"), width: 1, dash: "dot" } }));
    const annotations = facts.checkpoints.filter((each) => (each.problem !== null || each.is_whole === false) && each.named_step !== null).map((each) => ({
      x: each.named_step, yref: "paper", y: 0, yanchor: "bottom", text: "✕", showarrow: false, font: { color: colour("bad"), size: 18 }, hovertext: plain(`${each.name} ${each.problem === null ? "is damaged" : "cannot be read"}`),
    }));
    return { data, more: { xaxis: { title: { text: hasSteps ? "step" : "place in the run" } }, yaxis: { title: { text: plain(metric ?? "bytes") } }, shapes, annotations, showlegend: branches.length > 1 } };
  };
  const marked = read.filter((each) => each.marks.length).map((each) => `step ${each.step}: ${each.marks.join(", ")}`).join("; ");
  return chart(`${metric ?? "Bytes"} over ${several(read.length, "checkpoint")}. ${marked}`, figure, (point) => onclick(point.customdata));
}

function treemapChart(areas, onclick) {
  const figure = () => ({
    data: [{
      type: "treemap", branchvalues: "total", ids: areas.map((each) => String(each.id)),
      parents: areas.map((each) => (each.parent === null ? "" : String(each.parent))),
      labels: areas.map((each) => plain(each.parent === null ? "everything" : each.label || each.name || "(no name)")), values: areas.map((each) => each.nbytes),
      customdata: areas.map((each) => [each.name, plain(`${bytes(each.nbytes)}, ${several(each.tensors, "tensor")}`), plain(each.name || "everything")]),
      hovertemplate: "%{customdata[2]}<br>%{customdata[1]}<extra></extra>", texttemplate: "%{label}<br>%{customdata[1]}",
      maxdepth: 4, marker: { line: { width: 1, color: colour("back") } }, pathbar: { thickness: 22 },
    }],
    more: { margin: { l: 0, r: 0, t: 26, b: 0 } },
  });
  const largest = areas.filter((each) => each.parent === 0).sort((a, b) => b.nbytes - a.nbytes).slice(0, 5);
  return chart(`Where the bytes are: ${largest.map((each) => `${each.name || each.label || "small ones"} ${bytes(each.nbytes)}`).join(", ")}`, figure, onclick, 420);
}

// With ``sides`` the heights are elements for each unit of value, so that bins of any width compare.
function histogramChart(label, histograms, sides = null) {
  const density = (histogram, at) => histogram.counts[at] / (Number(histogram.edges[at + 1]) - Number(histogram.edges[at]));
  const figure = () => ({
    data: histograms.filter((each) => each.histogram.counts.length).map(({ name, histogram }) => {
      const edges = histogram.edges.map(Number);  // the one bin of a constant has no width to see
      return {
        type: "bar", name: plain(name), x: histogram.counts.map((_, at) => (edges[at] + edges[at + 1]) / 2), y: histogram.counts.map((each, at) => (sides ? density(histogram, at) : each)), customdata: histogram.counts,
        width: histogram.counts.map((_, at) => (edges.length === 2 ? Math.max(edges[1] - edges[0], Math.abs(edges[0]) / 20, 0.01) : edges[at + 1] - edges[at])), opacity: histograms.length > 1 ? 0.6 : 1,
        hovertemplate: "around %{x}: %{customdata}<extra></extra>",
      };
    }),
    more: { barmode: "overlay", bargap: 0, xaxis: { title: { text: "value" }, ...(sides ? { range: sides.x } : {}) }, yaxis: { title: { text: sides ? "elements for each unit" : "elements" }, ...(sides ? { range: sides.y } : {}) }, showlegend: false },
  });
  return chart(label, figure);
}

// Colours on both sides of zero where there are both signs, else from the least to the largest.
function scale(numbers) {
  const hasBoth = numbers.some((each) => each < 0) && numbers.some((each) => each > 0);
  return hasBoth ? { colorscale: "RdBu", zmid: 0 } : { colorscale: "Viridis" };
}

// Of few rows or columns each has its number; plotly would write fractions between them.
const places = (count, step) => (count > 12 ? {} : { tickvals: Array.from({ length: count }, (_, place) => place * step) });

function heatmapChart(label, facts) {
  const figure = () => ({
    data: [{
      type: "heatmap", ...scale(facts.values.flat().filter((each) => each !== null)), z: facts.values, x: facts.values[0].map((_, at) => at * facts.steps[1]), y: facts.values.map((_, at) => at * facts.steps[0]),
      hoverongaps: false, hovertemplate: "row %{y}, column %{x}: %{z}<extra></extra>", colorbar: { thickness: 12 },
    }],
    more: { xaxis: { title: { text: "column" }, ...places(facts.values[0].length, facts.steps[1]) }, yaxis: { title: { text: "row" }, autorange: "reversed", ...places(facts.values.length, facts.steps[0]) } },
  });
  return chart(label, figure);
}

// A line for each branch of the run.
function historyChart(points, what, title) {
  const hasSteps = points.some((each) => each.step !== null);
  const known = points.map((each, at) => (hasSteps ? each : { ...each, step: at })).filter((each) => typeof each[what] === "number" && each.step !== null);
  const branches = [...new Set(known.map((each) => each.branch))];
  const figure = () => ({
    data: branches.map((branch) => {
      const own = known.filter((each) => each.branch === branch);
      const from = what.startsWith("change") ? null : known.find((each) => each.key === own[0].since && each.branch !== branch);
      const line = from ? [from, ...own] : own;  // it begins at what it went on from
      return {
        type: "scatter", mode: "lines+markers", name: `branch ${branch + 1}`, x: line.map((each) => each.step), y: line.map((each) => each[what]),
        text: line.map((each) => plain(each.key)), hovertemplate: "step %{x}: %{y}<br>%{text}<extra></extra>",
      };
    }),
    more: { xaxis: { title: { text: hasSteps ? "step" : "place in the run" } }, yaxis: { title: { text: title } }, showlegend: branches.length > 1 },
  });
  const few = known.length > 24 ? [...known.slice(0, 8), ...known.slice(-8)] : known;
  const said = few.map((each) => `step ${each.step} ${number(each[what])}`);
  if (few.length < known.length) said.splice(8, 0, `${whole(known.length - few.length)} more`);
  return chart(`${title} over the run: ${said.join(", ")}`, figure, null, 260);
}

const isDrawn = (layer) => Boolean(layer.sums.numel) && (typeof layer.sums.relative === "number" || layer.sums.relative === "Infinity");

// What was all zero before has changed without measure: its bar is as long as the longest, and says so.
function layersChart(layers, onclick) {
  const shown = layers.filter(isDrawn).slice(0, 30).reverse();
  const longest = Math.max(...shown.map((each) => each.sums.relative).filter((each) => typeof each === "number"), 0) || 1;
  const isEndless = (each) => each.sums.relative === "Infinity";
  const figure = () => ({
    data: [{
      type: "bar", orientation: "h", y: shown.map((_, at) => at), text: shown.map((each) => (isEndless(each) ? "∞" : "")), x: shown.map((each) => (isEndless(each) ? longest : each.sums.relative)),
      marker: { color: shown.map((each) => colour(isEndless(each) ? "warn" : "accent")) },
      customdata: shown.map((each) => each.name), hovertext: shown.map((each) => plain(`${each.name}: ${number(each.sums.relative)}`)), hovertemplate: "%{hovertext}<extra></extra>", textposition: "inside", insidetextanchor: "end",
    }],
    more: { xaxis: { title: { text: "relative change" } }, yaxis: { tickvals: shown.map((_, at) => at), ticktext: shown.map((each) => plain(shorter(each.name))) }, margin: { l: 16, r: 16, t: 8, b: 44 } },
  });
  const label = [...shown].reverse().map((each) => `${each.name} ${number(each.sums.relative)}`).join(", ");
  return chart(`Relative change by layer: ${label}`, figure, (point) => onclick(point.customdata), Math.max(220, 40 + 24 * shown.length));
}
