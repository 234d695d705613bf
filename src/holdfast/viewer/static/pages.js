// One function for each kind of page: facts in, elements out.
"use strict";
const go = (address) => { if (!inlined) location.href = page.root + address; };

function marks(each) {
  return each.marks.map((mark) => el("span", { class: mark.startsWith("unreadable") || mark === "damaged" ? "mark bad" : mark === "latest" ? "mark good" : "mark" }, mark));
}

// ---- a run

let runText = "";
const few = 200;  // checkpoints in the table, unless all are asked for: each save draws it anew
let hasAll = false;
let verdict = "";

async function runPage() {
  const facts = await get("/run.json");
  runText = JSON.stringify(facts);
  drawRun(facts);
  if (!inlined) setTimeout(followRun, 1000);
}

// Asks again a second after the last answer; what has the focus keeps it.
async function followRun() {
  const now = document.hidden ? null : await get("/run.json").catch((error) => { lead(error.message); runText = ""; return null; });
  if (now && JSON.stringify(now) !== runText) {
    runText = JSON.stringify(now);
    const { id, href } = document.activeElement ?? {};
    drawRun(now);
    const again = id ? document.getElementById(id) : [...document.querySelectorAll("main a")].find((each) => href && each.href === href);
    again?.focus({ preventScroll: true });
  }
  setTimeout(followRun, 1000);
}

function drawRun(facts) {
  const read = facts.checkpoints.filter((each) => each.problem === null);
  const damaged = facts.checkpoints.length - read.length;
  title(facts.folder);
  const branches = facts.branches > 1 ? `, ${several(facts.branches, "branch").replace("branchs", "branches")}` : "";
  lead(`${several(facts.checkpoints.length, "checkpoint")}, ${bytes(facts.nbytes)}${branches}${damaged ? `, ${whole(damaged)} that cannot be read` : ""}`);
  const picked = document.querySelector("#metric")?.value ?? facts.metrics[0] ?? "";
  const place = el("div", {});
  const caption = el("p", { class: "dim" });
  const draw = (metric) => {
    place.replaceChildren(timelineChart(facts, metric || null, (name) => go(checkpointAt(name))));
    const unseen = metric ? read.filter((each) => finite(each, metric) === null).length : 0;
    const missing = [unseen ? `${several(unseen, "checkpoint")} ${unseen === 1 ? "has" : "have"} no finite ${metric}.` : "", damaged ? `${several(damaged, "checkpoint")} cannot be read: a red cross, where the name says a step.` : ""].filter(Boolean);
    caption.textContent = ["A star is the best, a square is pinned, a green rim the latest; a dotted line stands where saves before it were pruned.", ...missing].join(" ");
  };
  const choice = el("select", { id: "metric", onchange: (event) => draw(event.target.value) },
    facts.metrics.map((name) => el("option", { value: name, selected: name === picked }, name)), el("option", { value: "", selected: picked === "" }, "bytes"));
  const newest = [...facts.checkpoints].reverse();
  const older = newest.length - few;
  const rest = older > 0 && !hasAll ? el("button", { id: "older", type: "button", onclick: () => { hasAll = true; drawRun(facts); } }, `Show ${several(older, "older checkpoint")}`) : null;
  const rows = (rest ? newest.slice(0, few) : newest).map((each) => [
    [[each.problem === null ? link(checkpointAt(each.name), each.name) : el("span", { class: "bad" }, each.name), " ", ...marks(each)], "name"],
    [each.step === null ? "" : whole(each.step), "number"],
    ...facts.metrics.map((name) => [Object.hasOwn(each.metrics, name) ? number(each.metrics[name]) : "", "number"]),
    [bytes(each.nbytes), "number"],
    [each.written === null ? "" : `${each.written.toFixed(3)} s`, "number"],
    [each.seconds === null ? "" : `${number(each.seconds)} s`, "number"],
    [moment(each.time) || "", ""],
    [each.pruned ? el("span", { class: "dim" }, `${whole(each.pruned)} before it`) : "", ""],
  ]);
  const heads = ["checkpoint", ["step", "number"], ...facts.metrics.map((name) => [name, "number"]), ["size", "number"], ["written in", "number"], ["since the last", "number"], "saved (UTC)", "pruned"];
  show(section("Over the steps", el("div", { class: "tools" }, el("label", { for: "metric" }, "Show"), choice), place, caption),
    section("Checkpoints", inlined || read.length < 2 ? null : comparing(read), table(heads, rows, "Checkpoints, newest first"), rest, inlined ? null : verifying(read)), lines(facts.lines));
  draw(picked);
}

// One after the other, newest first: each is read whole.
function verifying(read) {
  const total = read.reduce((sum, each) => sum + each.nbytes, 0);
  const said = el("span", { class: "dim", "aria-live": "polite" });
  const all = async () => {
    let bad = 0;
    for (const [place, each] of [...read].reverse().entries()) {
      said.textContent = `Reading ${place + 1} of ${read.length}: ${each.name}`;
      const found = await get(`${addressOf("verify", each.name)}.json`).catch(() => ({ ok: false }));
      bad += found.ok ? 0 : 1;
    }
    runText = "";  // drawn anew, with their marks
    verdict = bad ? `${several(bad, "checkpoint")} damaged` : "No byte is another than was saved, where there are checksums.";
    drawRun(await get("/run.json"));
  };
  said.textContent = verdict;
  return el("div", { class: "tools" }, el("button", { id: "verify", type: "button", onclick: () => { all().catch((error) => { said.textContent = error.message; }); } }, `Compare all ${bytes(total)} with their checksums`), said);
}

function comparing(read) {
  const names = read.map((each) => each.name);
  const picked = [0, 1].map((side) => document.getElementById(`side-${side}`)?.value);
  const [a, b] = [names.at(-2), names.at(-1)].map((last, side) => (names.includes(picked[side]) ? picked[side] : last)).map((name, side) => el("select", { id: `side-${side}`, "aria-label": ["Compare", "with"][side] }, names.map((each) => el("option", { selected: each === name }, each))));
  return el("div", { class: "tools" }, "Compare", a, "with", b, el("button", { id: "compare", type: "button", onclick: () => go(`/diff${query({ a: a.value, b: b.value })}`) }, "Show what changed"));
}

// ---- a checkpoint

async function checkpointPage() {
  const search = el("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter tensors by name" });
  const sort = el("select", { "aria-label": "Sort tensors by" }, ["tree", "file", "name", "size", "shape", "dtype"].map((each) => el("option", {}, each)));
  const rows = new Rows(search, sort);
  const tensors = section("Tensors", el("div", { class: "tools" }, search, el("label", {}, "sort by ", sort), rows.count), rows.trouble, rows.table, inlined ? rows.note : null);
  show(tensors);
  await rows.start();  // before all else: it is what one waits for
  const facts = await get(`${checkpointAt(page.key)}.json`);
  title(facts.file);
  const { total, record } = facts;
  lead(`${facts.format}, ${bytes(facts.file_nbytes)}`);
  const cards = [card("tensors", whole(total.tensors)), card("elements", whole(total.numel)), card("bytes", bytes(total.nbytes)),
    ...(record && record.step !== null ? [card("step", whole(record.step))] : []),
    ...Object.entries(record?.metrics ?? {}).map(([name, value]) => card(name, number(value))),
    ...facts.dtypes.map((each) => card(each.name, bytes(each.nbytes)))];
  const parts = facts.parts.filter((each) => each.name !== null);
  const notes = [...facts.notes, ...(facts.is_complete ? [] : ["This tree describes more than can be listed."])];
  // Around the table, which stays where it is: somebody may have scrolled in it, or be typing.
  tensors.before(...present([
    el("div", { class: "cards" }, cards),
    notes.length ? section("Notes", el("ul", {}, notes.map((note) => el("li", {}, note)))) : null,
    parts.length ? section("Parts", table(["part", ["tensors", "number"], ["elements", "number"], ["bytes", "number"]],
      parts.map((each) => [[el("button", { type: "button", onclick: () => rows.filter(`${each.name}.`) }, each.name), "name"], [whole(each.tensors), "number"], [whole(each.numel), "number"], [bytes(each.nbytes), "number"]]), "Parts")) : null]));
  tensors.after(...present([
    total.nbytes ? section("Where the bytes are", later("Adding up …", async () => treemapChart((await get(`${addressOf("areas", page.key)}.json`)).areas, (point) => rows.filter(point.customdata[0])))) : null,
    section("Is it safe, is it whole?", ...(inlined ? [el("p", { class: "dim" }, "holdfast scan and holdfast verify say.")] : [
      later("Looking at what it would call …", () => checked("scan")),
      onRequest(`Compare all ${bytes(facts.file_nbytes)} with their checksums`, "Reading every byte …", () => checked("verify"))])),
    record ? section("Record", recordTable(record), el("details", {}, el("summary", {}, "All of it"), el("pre", {}, JSON.stringify(record, null, 1)))) : null,
    facts.values.length ? section("Plain values", table(["name", "type", "value"], facts.values.map((each) => [[each.name, "name"], each.type, [el("span", { class: "mono" }, each.text), "name"]]), "Plain values"),
      facts.more.values ? el("p", { class: "dim" }, `… and ${whole(facts.more.values)} more`) : null) : null,
    facts.opaques.length ? section("Objects, not built", table(["name", "kind", "class"], facts.opaques.map((each) => [[each.name, "name"], each.kind, [el("span", { class: "mono" }, each.symbol), "name"]]), "Objects")) : null,
    Object.keys(facts.metadata).length ? section("Metadata", table(["key", "text"], Object.entries(facts.metadata).map(([key, text]) => [[key, "name"], [text, "name"]]), "Metadata")) : null,
    lines(facts.lines)]));
}

function recordTable(record) {
  const { versions, git, host } = record.provenance ?? {};
  const facts = [["id", record.id], ["goes on from", record.parent], ["saved", record.time ? `${moment(record.time)} UTC` : null], ["sequence", record.sequence],
    ["code", git?.commit ? `${git.commit}${git.is_dirty ? " (with changes)" : ""}` : null], ["versions", Object.entries(versions ?? {}).map(([name, version]) => `${name} ${version}`).join(", ")], ["on", host]];
  return table(["field", "value"], facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [name, [String(value), "name"]]), "Record");
}

async function checked(what) {
  const facts = await get(`${addressOf(what, page.key)}.json`);
  const isUnknown = what === "verify" && facts.report.status === "unknown";
  return el("div", {}, el("p", {}, el("span", { class: isUnknown ? "mark" : facts.ok ? "mark good" : "mark bad" }, `${what}: ${isUnknown ? "no checksums for all of it" : facts.ok ? "fine" : "look"}`)), el("pre", {}, facts.text));
}

// A table of any length: only the rows in sight are there, and windows of them are fetched.
class Rows {
  constructor(search, sort) {
    this.height = 30; this.window = 200; this.pages = new Map(); this.total = 0; this.turn = 0; this.closed = new Set();
    this.search = search; this.sort = sort;
    this.count = el("span", { id: "count", class: "dim", "aria-live": "polite" });
    this.current = 1;
    this.space = el("div", { class: "space" });
    this.place = el("div", { class: "rows", role: "rowgroup", tabindex: inlined ? "0" : null }, this.space);  // a file has no links in it to focus
    const heads = ["name", "dtype", "shape", "bytes", "share"].map((each) => el("span", { role: "columnheader", class: each === "bytes" ? "number" : null }, each));
    this.trouble = el("div", {});
    this.note = el("p", { class: "dim" });
    this.table = el("div", { role: "table", "aria-label": "Tensors" }, el("div", { role: "rowgroup" }, el("div", { class: "row head", role: "row" }, heads)), this.place);
    this.place.addEventListener("scroll", () => requestAnimationFrame(() => this.draw()));
    this.place.addEventListener("keydown", (event) => this.move(event));
    let waiting;
    search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.start(), 120); });
    sort.addEventListener("change", () => this.start());
  }
  filter(text) { this.search.value = text; this.start(); this.search.focus(); }
  move(event) {
    const links = [...this.space.querySelectorAll("a, button")].sort((a, b) => a.offsetParent.offsetTop - b.offsetParent.offsetTop);
    const at = links.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (at < 0 || !step || !links[at + step]) return;
    event.preventDefault();
    for (const link of links) link.tabIndex = -1;
    this.current = Number(links[at + step].closest(".row").getAttribute("aria-rowindex"));
    links[at + step].tabIndex = 0;
    links[at + step].focus({ preventScroll: true });
    links[at + step].scrollIntoView({ block: "nearest" });
  }
  start() {
    this.turn += 1; this.pages.clear(); this.place.scrollTop = 0; this.space.replaceChildren();
    return this.fetch(0);
  }
  async toggle(name) {
    if (!this.closed.delete(name)) this.closed.add(name);
    const top = this.place.scrollTop;
    this.turn += 1; this.pages.clear();
    await this.fetch(Math.floor(top / this.height / this.window));
    this.place.scrollTop = top;
    [...this.space.querySelectorAll("button")].find((button) => button.dataset.name === name)?.focus({ preventScroll: true });
  }
  async fetch(at) {
    const turn = this.turn;
    try {
      await this.fetched(at);
      if (turn === this.turn) this.trouble.replaceChildren();
    } catch (error) {
      if (turn !== this.turn) return;
      this.pages.delete(at);
      this.total = 0;
      this.count.textContent = "";
      this.space.replaceChildren();
      this.trouble.replaceChildren(letter(error));
    }
  }
  async fetched(at) {
    const turn = this.turn;
    this.pages.set(at, null);
    const facts = inlined ? this.local(at) : await get(`${addressOf("rows", page.key)}.json${query({ filter: this.search.value, sort: this.sort.value, start: at * this.window, count: this.window })}${[...this.closed].map((name) => `&${new URLSearchParams({ closed: name })}`).join("")}`);
    if (turn !== this.turn) return;
    this.pages.set(at, facts.rows);
    this.total = facts.total;
    this.count.textContent = several(facts.tensors, "tensor");
    this.table.setAttribute("aria-rowcount", facts.total);
    this.space.style.height = `${facts.total * this.height}px`;
    this.place.style.height = facts.total < 18 ? `${Math.max(1, facts.total) * this.height + 2}px` : "";
    this.draw();
  }
  local(at) {
    const wanted = this.search.value.toLowerCase();
    const isTree = this.sort.value === "tree" && !wanted;
    this.note.textContent = inlined.left_out ? `${whole(inlined.left_out)} more tensors are left out of this file.` : "";
    const rows = inlined.rows.filter((each) => isTree || (each.dtype && each.name.toLowerCase().includes(wanted))).map((each) => (isTree ? each : { ...each, level: 0 }));
    const key = { name: (a, b) => (a.name < b.name ? -1 : 1), size: (a, b) => b.nbytes - a.nbytes, shape: (a, b) => b.shape.reduce((n, size) => n * size, 1) - a.shape.reduce((n, size) => n * size, 1), dtype: (a, b) => (a.dtype < b.dtype ? -1 : 1) }[this.sort.value];
    if (key) rows.sort(key);
    return { total: rows.length, tensors: rows.filter((each) => each.dtype).length, rows: rows.slice(at * this.window, (at + 1) * this.window) };
  }
  draw() {
    const top = Math.floor(this.place.scrollTop / this.height);
    const first = Math.max(0, top - 5);
    const last = Math.min(this.total, first + Math.ceil(this.place.clientHeight / this.height) + 10);
    const focused = document.activeElement?.closest?.(".row")?.getAttribute("aria-rowindex");
    if (this.current <= first || this.current > last) this.current = Math.min(top, this.total - 1) + 1;  // one stop for Tab
    const made = [];
    for (let at = first; at < last; at += 1) {
      const page_ = Math.floor(at / this.window);
      if (!this.pages.has(page_)) this.fetch(page_);
      const facts = this.pages.get(page_)?.[at % this.window];
      if (facts) made.push([at, facts]);
    }
    // Rows that are there stay: a click that begins on one has to end on it.
    const shown = [this.current, ...made.flat()];
    if (this.space.hasChildNodes() && shown.length === this.shown?.length && shown.every((each, n) => each === this.shown[n])) return;
    this.shown = shown;
    this.space.replaceChildren(...made.map(([at, facts]) => this.row(at, facts)));
    if (focused) this.space.querySelector(`[aria-rowindex="${focused}"] :is(a, button)`)?.focus({ preventScroll: true });
  }
  name(facts, at) {
    const tabindex = at + 1 === this.current ? 0 : -1;
    const isTree = this.sort.value === "tree" && !(inlined && this.search.value);
    const short = isTree && !facts.name.includes("[") ? facts.name.slice(facts.name.lastIndexOf(".") + 1) : facts.name;
    if (facts.dtype) return link(tensorAt(page.key, facts.name), short, { "aria-label": facts.name, tabindex });
    const text = `${facts.is_open ? "▾" : "▸"} ${short}`;
    if (inlined) return el("span", {}, text);
    return el("button", { class: "group", type: "button", tabindex, "data-name": facts.name, "aria-expanded": String(facts.is_open), "aria-label": facts.name, onclick: () => this.toggle(facts.name) }, text);
  }
  row(at, facts) {
    const share = `${(100 * facts.share).toFixed(facts.share < 0.1 ? 1 : 0)}%`;
    return el("div", { class: "row", role: "row", "aria-rowindex": at + 1, style: `top:${at * this.height}px` },
      el("span", { role: "cell", title: facts.note ? `${facts.name} (${facts.note})` : facts.name, style: `padding-left:min(${16 * facts.level}px, 40%)` }, this.name(facts, at)),
      el("span", { role: "cell", title: facts.dtype ?? null }, facts.dtype ?? ""), el("span", { role: "cell", title: facts.dtype ? shape(facts.shape) : null }, facts.dtype ? shape(facts.shape) : several(facts.tensors, "tensor")),
      el("span", { role: "cell", class: "number" }, bytes(facts.nbytes)),
      el("span", { role: "cell", "aria-label": `${share} of all bytes`, title: share }, el("div", { class: "bar" }, el("span", { style: `width:${100 * facts.share}%` }))));
  }
}

// ---- a tensor

async function tensorPage() {
  const { key } = page;
  const name = new URLSearchParams(location.search).get("name");  // an attribute would lose some characters
  const row = await get(`${addressOf("rows", key)}.json${query({ name })}`);
  title(name);
  lead(`${row.dtype} ${shape(row.shape)}, ${bytes(row.nbytes)}${row.note ? `, ${row.note}` : ""} · ${key}`);
  const isLarge = row.nbytes > 64 * 2 ** 20;
  const work = async () => statistics((await get(`${addressOf("tensor", key)}.json${query({ name })}`)).stats);
  show(section("Statistics", isLarge ? onRequest(`Read its ${bytes(row.nbytes)}`, "Reading …", work) : later("Reading …", work)),
    section("As a picture", isLarge ? onRequest("Draw a slice of it", "Reading …", () => picture(key, name, row.shape)) : later("Reading …", () => picture(key, name, row.shape))),
    page.run ? section("Over the run", onRequest("Read it in every checkpoint", "Reading …", async () => history(await get(`/history.json${query({ name })}`)))) : null, lines(row.lines));
}

function statistics(stats) {
  if (stats.why && !stats.counted) return el("p", {}, stats.flags.map((flag) => el("span", { class: "mark bad" }, flag.text)), stats.flags.some((flag) => flag.text.includes(stats.why)) ? null : stats.why);
  const cards = [["least", stats.minimum], ["largest", stats.maximum], ["mean", stats.mean], ["standard deviation", stats.std], ["norm", stats.norm], ["zeros", stats.zeros], ["NaN", stats.nans], ["infinite", stats.infs]];
  return el("div", {},
    stats.flags.length ? el("p", {}, stats.flags.map((flag) => el("span", { class: "mark bad" }, flag.text))) : null,
    el("div", { class: "cards" }, cards.map(([label, value]) => card(label, number(value) || "–"))),
    stats.histogram.counts.length ? histogramChart(`Histogram of ${stats.name}: ${number(stats.minimum)} to ${number(stats.maximum)}, mean ${number(stats.mean)}`, [{ name: stats.name, histogram: stats.histogram }]) : null);
}

async function picture(key, name, sizes) {
  const lead_ = sizes.slice(0, -2);
  const place = el("div", {});
  let turn = 0;
  const draw = async (index) => {
    const own = (turn += 1);
    const facts = await get(`${addressOf("slice", key)}.json${query({ name, index: index.join(",") })}`).catch((error) => { if (own === turn) throw error; return null; });
    if (own !== turn) return null;  // another one was asked for meanwhile
    if (facts.why !== null) return facts.why;
    const thinned = facts.steps.map((step, axis) => (step > 1 ? `One ${["row", "column"][axis]} in ${step} is drawn. ` : "")).join("");
    const blank = facts.values.flat().includes(null) ? "What is blank is NaN or infinite. " : "";
    place.replaceChildren(heatmapChart(`Heat map of ${name} ${shape(sizes)}`, facts), el("p", { class: "dim" }, `${thinned}${blank}Its checksum is compared when its statistics are read.`));
    return null;
  };
  const inputs = lead_.map((size, axis) => el("input", { type: "number", min: 0, max: size - 1, value: 0, "aria-label": `Place along axis ${axis}`, onchange: () => draw(inputs.map((each) => Number(each.value))).catch((error) => place.replaceChildren(letter(error))) }));
  const why = await draw(lead_.map(() => 0));
  if (why) return el("p", { class: "dim" }, `Nothing to draw: ${why}`);
  return el("div", {}, inputs.length ? el("div", { class: "tools" }, inputs.map((input, axis) => el("label", {}, `axis ${axis}, 0 to ${lead_[axis] - 1} `, input))) : null, place);
}

function history({ points, lines: elsewhere }) {
  const rows = points.map((each) => [[link(checkpointAt(each.key), each.key), "name"], [each.step === null ? "" : whole(each.step), "number"], [number(each.norm), "number"], [number(each.mean), "number"], [number(each.std), "number"], [number(each.change), "number"], [number(each.change_per_step), "number"], [each.since ?? "", "name"], [each.problem ?? "", "name"]]);
  const hasSteps = points.some((each) => typeof each.change_per_step === "number");
  const charts = { norm: "norm", mean: "mean", std: "std", ...(hasSteps ? { change_per_step: "relative change per step" } : { change: "relative change" }) };
  return el("div", {}, el("div", { class: "pair two" }, Object.entries(charts).map(([what, title]) => historyChart(points, what, title))),
    table(["checkpoint", ["step", "number"], ["norm", "number"], ["mean", "number"], ["std", "number"], ["relative change", "number"], ["per step", "number"], "since", ""], rows, "Over the run"),
    lines(elsewhere, "The history elsewhere"));
}

// ---- two checkpoints

async function diffPage() {
  const facts = await get(`/diff.json${inlined ? "" : location.search}`);
  title(inOneLine(facts));
  lead(`${facts.a} → ${facts.b} · ${facts.words}`);
  const byName = new Map(facts.changes.map((each) => [each.name, each]));
  const beside = el("div", { id: "beside" });
  const most = 300;  // layers whose tensors stand in the page at once
  const rowsOf = (layers) => layers.flatMap((layer) => [
    [[el("strong", { id: `layer-${layer.name}` }, layer.name), "name"], ...sums(layer.sums), ""],
    ...layer.tensors.map((name) => changeRow(facts, byName.get(name), beside)),
  ]);
  const heads = ["", ["relative", "number"], ["cosine", "number"], ["largest", "number"], ["changed", "number"], ""];
  const place = el("div", {});
  const more = el("button", { type: "button", onclick: () => add() });
  let there = 0;
  const add = () => {
    const next = facts.layers.slice(there, there + most);
    place.append(table(there ? [] : heads, rowsOf(next), there ? "More changed tensors" : "Changed tensors by layer"));
    there += next.length;
    more.textContent = `Show more: ${whole(there)} of ${whole(facts.layers.length)} layers are here`;
    more.hidden = there >= facts.layers.length;
  };
  add();
  const jump = (name) => document.getElementById(`layer-${name}`)?.scrollIntoView({ block: "center" });
  show(
    facts.layers.length ? section("Layers by change", layersChart(facts.layers, jump), el("p", { class: "dim" }, chartNote(facts.layers))) : null,
    facts.is_complete ? null : el("p", { class: "bad" }, "One of the two describes more than can be listed: what was left out has not been compared."),
    facts.likely_part === null ? null : el("p", {}, `Some names differ by “${facts.likely_part}.” alone: holdfast diff … --part ${facts.likely_part} puts them together.`),
    beside,
    facts.layers.length ? section("Tensors", place, more) : null,
    ...[["Only in the first", facts.removed], ["Only in the second", facts.added]].map(([head, sides]) => (sides.length ? section(head, table(["name", "dtype", "shape", ["bytes", "number"]], sides.map((each) => [[each.name, "name"], each.dtype, shape(each.shape), [bytes(each.nbytes), "number"]]), head)) : null)),
    ...[["Plain values", facts.values], ["Record (does not count)", facts.record]].map(([head, values]) => (values.length ? section(head, table(["name", "first", "second"], values.map((each) => [[each.name, "name"], [each.a ?? "(none)", "name"], [each.b ?? "(none)", "name"]]), head)) : null)),
    lines(facts.lines));
}

function inOneLine(facts) {
  const alone = facts.added.length + facts.removed.length;
  if (facts.equal) return "They hold the same";
  if (facts.changes.length) return `${several(facts.changes.length, "tensor")} changed`;
  if (alone) return `${several(alone, "tensor")} only in one of them`;
  return facts.values.length ? `${several(facts.values.length, "plain value")} changed` : "Not all of it was compared";
}

function chartNote(layers) {
  const drawable = layers.filter(isDrawn);
  return [drawable.length > 30 ? `The 30 of ${whole(drawable.length)} layers that changed most.` : "",
    drawable.some((each) => each.sums.relative === "Infinity") ? "A bar marked ∞ was all zero before: its change has no scale." : "",
    drawable.length < layers.length ? `Layers with other shapes, or without numbers, are in the table alone: ${whole(layers.length - drawable.length)}.` : ""].filter(Boolean).join(" ");
}

function sums(facts) {
  if (!facts || !facts.numel) return ["", "", "", ""];
  return [[number(facts.relative), "number"], [facts.cosine === null ? "" : Number(facts.cosine).toFixed(6), "number"], [number(facts.largest), "number"], [part(facts.share), "number"]];
}

function changeRow(facts, change, beside) {
  const notes = [change.kinds.includes("reshaped") ? change.shapes.map(shape).join(" → ") : null, change.dtypes[0] !== change.dtypes[1] ? change.dtypes.join(" → ") : null, change.old_name ? `was ${change.old_name}` : null, change.why, change.sums?.strange ? `${whole(change.sums.strange)} NaN or infinite` : null];
  const open = async () => {
    beside.replaceChildren(later(`Reading ${change.name} …`, () => histograms(facts.keys, change)));
    beside.scrollIntoView({ block: "start" });
  };
  const short = change.name.slice(change.name.lastIndexOf(".") + 1);
  const isThere = !inlined || Object.hasOwn(inlined.histograms ?? {}, change.name);
  const name = !isThere ? short : el("button", { class: "quiet", type: "button", title: `Both histograms of ${change.name}`, onclick: open }, short);
  return [[name, "name inner"], ...sums(change.sums), [notes.filter(Boolean).join(", "), "name"]];
}

async function histograms(keys, change) {
  const names = [change.old_name ?? change.name, change.name];
  const found = inlined ? inlined.histograms[change.name] : await Promise.all(keys.map((key, side) => get(`${addressOf("tensor", key)}.json${query({ name: names[side] })}`)));
  const named = found.map(({ stats }, side) => ({ name: ["first", "second"][side], histogram: stats.histogram, stats }));
  const edges = named.flatMap(({ histogram }) => histogram.edges.map(Number));
  const heights = named.flatMap(({ histogram }) => histogram.counts.map((each, at) => each / (Number(histogram.edges[at + 1]) - Number(histogram.edges[at]))));
  const isPlain = named.every(({ histogram }) => histogram.counts.length > 1);  // a constant's one bin has no width to speak of
  const sides = edges.length && isPlain ? { x: [Math.min(...edges), Math.max(...edges)], y: [0, 1.05 * Math.max(...heights)] } : null;
  const side = (each) => el("div", {}, el("h3", {}, each.name), histogramChart(`Histogram of ${change.name} in the ${each.name}: ${number(each.stats.minimum)} to ${number(each.stats.maximum)}, mean ${number(each.stats.mean)}`, [each], sides));
  return section(change.name, el("div", { class: "pair two" }, named.map(side)),
    table(["", ["mean", "number"], ["std", "number"], ["least", "number"], ["largest", "number"], ["norm", "number"]], found.map(({ stats }, side) => [link(tensorAt(keys[side], names[side]), ["first", "second"][side]), ...["mean", "std", "minimum", "maximum", "norm"].map((what) => [number(stats[what]), "number"])]), "Both"));
}

const kinds = { run: runPage, checkpoint: checkpointPage, tensor: tensorPage, diff: diffPage };
kinds[page.kind]?.().catch((error) => { lead(""); show(letter(error)); });
