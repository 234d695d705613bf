// What every page uses. Text from files goes into the page as text, never as HTML.
"use strict";
const page = document.documentElement.dataset;
const inlined = JSON.parse(document.getElementById("inlined")?.textContent ?? "null");

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...present(children));
  return made;
}

const present = (children) => children.flat().filter((child) => child !== null && child !== undefined).map((child) => (typeof child === "string" ? visible(child) : child));

async function get(address) {
  if (inlined) {
    if (address in inlined) return inlined[address];
    throw new Error("This file holds one page; holdfast view shows the others.");
  }
  const answer = await fetch(page.root + address);
  const facts = await answer.json().catch(() => ({ error: `The server answers ${answer.status}: ${answer.statusText || "no more is known"}` }));
  if (!answer.ok) throw new Error(facts.error ?? answer.statusText);
  return facts;
}

// Half a surrogate pair stands for bytes that are no text; an address has it as the server does.
const halves = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
// What would turn text around, or cannot be seen, is shown as what it is.
const unseen = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
const addressed = (text) => String(text).replace(halves, escaped);
const visible = (text) => String(text).replace(unseen, escaped).replace(halves, escaped);
const query = (values) => "?" + new URLSearchParams(Object.entries(values).map(([name, value]) => [name, addressed(value)])).toString();
const addressOf = (kind, key) => `/${kind}/${encodeURIComponent(addressed(key))}`;
const checkpointAt = (key) => addressOf("checkpoint", key);
const tensorAt = (key, name) => `${addressOf("tensor", key)}${query({ name })}`;

function link(address, text, attributes = {}) {
  if (inlined) return el("span", attributes, text);
  return el("a", { ...attributes, href: page.root + address }, text);
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}
const whole = (count) => count.toLocaleString("en-US");
const several = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return whole(value);
  return size < 1e-3 || size >= 1e6 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}
const moment = (time) => (time ? time.slice(0, 19).replace("T", " ") : "");
const part = (share) => (share > 0 && share < 0.0005 ? "<0.1%" : `${(100 * share).toFixed(1)}%`);
const shape = (sizes) => `[${sizes.join(", ")}]`;

function card(label, value) {
  return el("div", { class: "card" }, el("div", { class: "label" }, label), el("div", { class: "value" }, value));
}

function table(heads, rows, label) {
  const cells = (row, tag) => row.map((cell) => {
    const [content, kind] = Array.isArray(cell) ? cell : [cell, ""];
    return el(tag, { class: kind || null, scope: tag === "th" ? "col" : null }, ...[content ?? ""].flat());
  });
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label },
    el("table", {}, el("thead", {}, el("tr", {}, cells(heads, "th"))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row, "td"))))));
}

function lines(facts, head = "The same elsewhere") {
  const parts = [["Python", facts.python], ...facts.commands.map((command) => ["Command line", command])];
  return section(head, parts.map(([what, text]) => el("div", { class: "copy" },
    el("pre", { "aria-label": what }, text),
    el("button", { type: "button", "aria-label": `Copy: ${what}`, onclick: (event) => copy(event.target, text) }, "Copy"))));
}

// Where the browser does not let a page write to the clipboard, the text is selected.
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function section(head, ...children) {
  return el("section", { "aria-label": head }, el("h2", {}, head), ...children);
}

function letter(error) {
  return el("pre", { class: "letter", role: "alert" }, error.message);
}

// A place that is filled when its facts are there: reading a large tensor takes as long as its bytes.
function later(text, work) {
  const place = el("div", {}, el("p", { class: "dim", "aria-live": "polite" }, text));
  work().then((made) => place.replaceChildren(made), (error) => place.replaceChildren(letter(error)));
  return place;
}

function onRequest(text, label, work) {
  const place = el("div", {});
  place.append(el("button", { type: "button", onclick: () => place.replaceChildren(later(label, work)) }, text));
  return place;
}

function lead(text) { document.getElementById("lead").textContent = visible(text); }
function title(text) { document.getElementById("title").textContent = visible(text); }
function show(...children) { document.getElementById("content").replaceChildren(...present(children)); }

theme.listen(document.getElementById("theme"));
