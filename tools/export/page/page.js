"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const NARROW = matchMedia("(max-width: 600px)");
const LEFT = 12, MEMBERS = 200, GROUPS = 1000, FEW = 120;
const $ = id => document.getElementById(id);
const esc = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const number = x => x === null ? "" : Math.abs(x) >= 1000 || (x !== 0 && Math.abs(x) < 0.001) ? x.toExponential(2) : String(+x.toPrecision(4));
const byId = new Map(data.groups.map(g => [g.id, g]));
const rowHeight = () => NARROW.matches ? 26 : 22, gutterWidth = () => NARROW.matches ? 60 : 170;
let chosenGroup = null, chosenNode = null, found = "";

const chip = (id, stop = true) => {
  const g = byId.get(id);
  return `<button class="chip"${stop ? "" : ' tabindex="-1"'} data-group="${id}" title="group ${id}: ${g.kind}, ${g.size}" style="background:${g.colour};color:${g.dark ? "#000" : "#fff"}">#${id}</button>`;
};

// ---- groups ----------------------------------------------------------------------------------------------

const memberText = m => `${m[0]} ${m[1]}[${m[2]}:${m[3]}]`;
for (const g of data.groups) g.text = `#${g.id} ${g.kind} ${g.why} ${g.members.map(memberText).join(" ")}`.toLowerCase();

function showGroups() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const hits = data.groups.filter(g => words.every(w => w.startsWith("#") ? `#${g.id}` === w : g.text.includes(w)));
  $("table").tBodies[0].innerHTML = hits.slice(0, GROUPS).map(g => `<tr class="group" data-row="${g.id}" tabindex="-1" aria-expanded="false">
    <td><span class="toggle">▸</span>${chip(g.id, false)}</td><td>${g.kind}${g.allows === "any" ? "" : ` (${g.allows})`}</td>
    <td class="n">${g.size}</td><td class="n">${g.members.length}</td>
    <td>${esc(g.members.length ? memberText(g.members[0]) : "")}${g.why ? `; ${esc(g.why)}` : ""}</td></tr>`).join("");
  stopAt($("table").querySelector("tr.group"));
  const left = hits.length - GROUPS;
  $("found").textContent = `${hits.length} of ${data.groups.length} groups` + (left > 0 ? `; the last ${left} are not shown` : "");
}

function toggleGroup(row) {
  const open = row.getAttribute("aria-expanded") === "true";
  row.setAttribute("aria-expanded", String(!open));
  row.querySelector(".toggle").textContent = open ? "▸" : "▾";
  if (open) return row.nextElementSibling.remove();
  const g = byId.get(Number(row.dataset.row)), more = g.members.length - MEMBERS;
  const items = g.members.slice(0, MEMBERS).map(m => {
    const at = nodeOf(m[0]);
    const name = esc(memberText(m));
    return `<li>${at < 0 ? name : `<a href="#graph" data-node="${at}">${name}</a>`}</li>`;
  });
  row.insertAdjacentHTML("afterend", `<tr class="members"><td></td><td colspan="4"><ul>${items.join("")}</ul>${more > 0 ? `... and ${more} more` : ""}</td></tr>`);
}

// ---- the graph: modules that open and close, runs of nodes in execution order ------------------------------

const places = new Map();
data.nodes.forEach((node, i) => { for (const key of [node.module ? node.path : "", node.source, node.name]) if (key) places.set(key, i); });
const nodeOf = name => places.get(name) ?? places.get(name.replace(/\.[^.]*$/, "")) ?? -1;

let root, items;
function build() {
  const opened = new Set(items ? items.filter(x => x.open).map(x => x.key) : []);
  root = { children: [], depth: -1, open: true, node: -1 };
  items = [];
  let stack = [root];
  data.nodes.forEach((node, i) => {
    if (node.kind === "none" && !node.inputs_outputs && !$("plain").checked) return;
    let same = 0;
    while (same < node.within.length && stack[same + 1] && stack[same + 1].name === node.within[same]) same++;
    stack = stack.slice(0, same + 1);
    for (const name of node.within.slice(same)) {
      const path = node.within.slice(0, stack.length).join(".");
      const made = { children: [], depth: stack.length - 1, name, path, key: `${path}@${i}`, open: false, node: -1, parent: stack[stack.length - 1] };
      made.open = opened.has(made.key);
      stack[stack.length - 1].children.push(made);
      stack.push(made);
      items.push(made);
    }
    stack[stack.length - 1].children.push({ node: i, depth: stack.length - 1, parent: stack[stack.length - 1] });
  });
  root.children.forEach(function count(item) {
    item.size = item.node >= 0 ? 1 : item.children.reduce((n, c) => n + count(c), 0);
    return item.size;
  });
}

function openSome() {
  for (const item of items) item.open = false;
  let level = root.children.filter(x => x.node < 0), rows = root.children.length;
  while (level.length) {
    const more = level.reduce((n, x) => n + x.children.length, 0);
    if (rows + more > FEW) break;
    rows += more;
    for (const item of level) item.open = true;
    level = level.flatMap(x => x.children.filter(c => c.node < 0));
  }
}

const visible = () => {
  const rows = [];
  (function walk(item) {
    for (const child of item.children) {
      rows.push(child);
      if (child.node < 0 && child.open) walk(child);
    }
  })(root);
  return rows;
};

const nodesIn = item => item.node >= 0 ? [item.node] : item.children.flatMap(nodesIn);

function colourOf(node) {
  if (node.groups.length === 1) return byId.get(node.groups[0]).colour;
  return node.groups.length && node.kind !== "pinned" ? data.mixed : data.pinned;
}

function lanes(rows, contents) {
  const at = new Map(), consumers = rows.map(() => new Set());
  contents.forEach((nodes, r) => nodes.forEach(n => at.set(n, r)));
  contents.forEach((nodes, r) => nodes.forEach(n => data.nodes[n].inputs.forEach(i => {
    const from = at.get(i);
    if (from !== undefined && from !== r) consumers[from].add(r);
  })));
  const lane = rows.map(() => -1), last = consumers.map(c => Math.max(-1, ...c)), taken = [];
  rows.forEach((_, r) => {
    if (!contents[r].length) return;
    let own = taken.findIndex(from => from !== undefined && last[from] === r);
    if (own < 0) own = taken.findIndex(from => from === undefined);
    if (own < 0) own = taken.length;
    taken.forEach((from, k) => { if (from !== undefined && last[from] <= r) taken[k] = undefined; });
    lane[r] = own;
    taken[own] = last[r] > r ? r : undefined;
  });
  return { lane, last, consumers, width: taken.length };
}

const holds = node => chosenGroup === null || node.groups.includes(chosenGroup);

function showGraph() {
  const rows = visible();
  const contents = rows.map(item => item.node < 0 && item.open ? [] : nodesIn(item));
  const { lane, last, consumers, width } = lanes(rows, contents);
  const ROW = rowHeight(), step = Math.max(NARROW.matches ? 1.5 : 4, Math.min(10, gutterWidth() / Math.max(1, width)));
  const x = k => LEFT + k * step, y = r => (r + 1) * ROW + ROW / 2, gutter = LEFT + width * step + 8;
  const drawn = [], dots = [];
  rows.forEach((item, r) => {
    if (lane[r] < 0) return;
    const node = data.nodes[contents[r][contents[r].length - 1]], colour = colourOf(node);
    const dim = contents[r].some(n => holds(data.nodes[n]) || n === chosenNode) ? "" : ' class="dim"', faint = holds(node) ? "" : ' class="dim"';
    dots.push(`<circle cx="${x(lane[r])}" cy="${y(r)}" r="4" fill="${colour}"${dim}/>`);
    if (last[r] <= r) return;
    const a = x(lane[r]);
    let path = "", end = y(r);
    for (const to of consumers[r]) {
      const b = x(lane[to]);
      if (a === b) { end = Math.max(end, y(to)); continue; }
      end = Math.max(end, y(to) - ROW * 0.8);
      path += `M${a} ${y(to) - ROW * 0.8}Q${a} ${y(to)} ${b} ${y(to)}`;
    }
    drawn.push(`<path d="M${a} ${y(r)}V${end}${path}" stroke="${colour}"${faint}/>`);
  });
  const svg = $("lines");
  svg.setAttribute("width", gutter);
  svg.setAttribute("height", (rows.length + 1) * ROW);
  svg.innerHTML = drawn.join("") + dots.join("");
  $("head").style.paddingLeft = `${gutter}px`;
  const focused = $("list").contains(document.activeElement), kept = shown[at];
  $("list").innerHTML = rows.map((item, r) => rowHtml(item, r, contents[r].length ? contents[r] : nodesIn(item), gutter)).join("");
  $("rows").textContent = `${rows.length} rows, ${data.nodes.length} nodes`;
  $("clear").hidden = chosenGroup === null;
  if (chosenGroup !== null) $("clear").textContent = `Show all groups (now #${chosenGroup})`;
  shown = rows;
  at = Math.max(0, rows.indexOf(kept));
  stopAt($("list").children[at]);
  if (focused) $("list").children[at]?.focus({ preventScroll: true });
}
let shown = [], at = 0;  // the rows, and which of them the Tab key stops at

function stopAt(row) {
  if (!row) return;
  for (const other of row.parentElement.querySelectorAll(":scope > [tabindex='0']")) other.tabIndex = -1;
  row.tabIndex = 0;
}

function rowHtml(item, r, nodes, gutter) {
  const last = data.nodes[nodes[nodes.length - 1]], module = item.node < 0;
  const hit = found && (module ? item.path : `${last.name} ${last.path} ${last.op}`).toLowerCase().includes(found) ? " hit" : "";
  const dim = nodes.some(n => holds(data.nodes[n])) ? "" : " dim", chosen = !module && item.node === chosenNode ? " chosen" : "";
  const name = module ? `<span class="toggle">${item.open ? "▾" : "▸"}</span>${esc(item.name)}` : `<span class="toggle"></span>${esc(last.label)}${{ added: " <b>+</b>", wrapped: " <b>*</b>" }[last.change] || ""}`;
  const chips = module && item.open ? "" : last.groups.slice(0, 4).map(id => chip(id, false)).join("") + (last.groups.length > 4 ? ` +${last.groups.length - 4}` : "") || (last.kind === "pinned" ? '<span class="t">1</span>' : "");
  const tau = module && item.open || !last.cob || last.kind === "pinned" ? "" : `${number(last.cob[0])} to ${number(last.cob[1])}`;
  return `<div class="row${module ? " module" : ""}${hit}${dim}${chosen}" data-at="${r}" role="treeitem" aria-level="${item.depth + 1}"${module ? ` aria-expanded="${item.open}"` : ""} tabindex="-1" style="padding-left:${gutter}px">
    <span style="padding-left:${item.depth * 12}px" title="${esc(module ? item.path : last.name)}">${name}</span>
    <span class="t">${module ? `${item.size} node${item.size === 1 ? "" : "s"}` : esc(last.op)}</span><span>${chips}</span>
    <span class="s">${module && item.open ? "" : esc(last.shape)}</span><span class="t">${tau}</span></div>`;
}

function showFacts(i) {
  chosenNode = i;
  const node = data.nodes[i];
  const links = node.inputs.map(k => `<a href="#graph" data-node="${k}">${esc(data.nodes[k].name)}</a>`).join(" ");
  const rows = [
    ["operation", esc(node.op) + ({ added: ", added by teleportation", wrapped: ", wrapped: tau * f(x / tau)" }[node.change] || "")],
    ["module", esc(node.path || "the model itself")], ["value", esc(node.shape)],
    ["groups", node.groups.map(id => chip(id)).join(" ") || node.kind],
    ["CoB", node.cob ? `|tau| from ${number(node.cob[0])} to ${number(node.cob[1])}, mean |log2 tau| ${number(node.cob[2])}, ${number(100 * node.cob[3])}% negative` : ""],
    ["parameters", node.parameters ? `${node.parameters.toLocaleString("en")}, ${number(100 * node.moved)}% moved` : ""],
    ["error", node.error === null ? "" : node.error === 0 ? "0: equal to the last bit" : `${number(node.error)} of the largest value`],
    ["reads", links],
  ];
  const why = node.groups.map(id => byId.get(id)).filter(g => g.why).slice(0, 5).map(g => `<p>#${g.id}: ${esc(g.why)}</p>`).join("");
  $("facts").classList.remove("empty");
  $("facts").innerHTML = `<button id="leave">Close</button><h3>${esc(node.name)}</h3><table>${rows.filter(r => r[1]).map(([k, v]) => `<tr><th>${k}</th><td>${v}</td></tr>`).join("")}</table>${why}`;
}

function goTo(i) {
  if (data.nodes[i].kind === "none" && !$("plain").checked) { $("plain").checked = true; build(); }
  (function open(item) {
    for (const child of item.children) {
      if (child.node === i || (child.node < 0 && open(child))) return (item.open = true);
    }
    return false;
  })(root);
  showFacts(i);
  showGraph();
  const r = shown.findIndex(item => item.node === i);
  if (r < 0) return;
  at = r;
  stopAt($("list").children[r]);
  $("list").children[r].scrollIntoView({ block: "center" });
}

// ---- what the reader does ----------------------------------------------------------------------------------

document.addEventListener("click", event => {
  if (event.target.id === "leave") return leave();
  const target = event.target.closest("[data-group],[data-node],[data-at],tr.group");
  if (!target) return;
  if (target.dataset.group !== undefined) {
    const id = Number(target.dataset.group);
    chosenGroup = chosenGroup === id ? null : id;
    showGraph();
    if (target.closest("#table")) $("graph").scrollIntoView();
  } else if (target.dataset.node !== undefined) {
    event.preventDefault();
    goTo(Number(target.dataset.node));
  } else if (target.dataset.at !== undefined) {
    at = Number(target.dataset.at);
    const item = shown[at];
    if (item.node < 0) item.open = !item.open; else showFacts(item.node);
    showGraph();
  } else toggleGroup(target);
});
function leave() {
  chosenNode = null;
  $("facts").className = "empty";
  $("facts").innerHTML = '<p class="hint">Select a node.</p>';
  showGraph();
  $("list").children[at]?.focus({ preventScroll: true });
}

// Rows are one stop of the Tab key; arrows go from row to row, as in a tree.
const siblingRow = (row, step) => {
  do row = step < 0 ? row.previousElementSibling : row.nextElementSibling; while (row && !row.matches(".row, tr.group"));
  return row;
};
document.addEventListener("keydown", event => {
  if (event.key === "Escape" && chosenNode !== null && !event.target.matches("input")) return leave();
  const row = event.target;
  if (!row.matches(".row[data-at], tr.group")) return;
  const open = row.getAttribute("aria-expanded");
  const rows = row.parentElement.querySelectorAll(":scope > .row, :scope > tr.group");
  const next = { ArrowDown: () => siblingRow(row, 1), ArrowUp: () => siblingRow(row, -1), Home: () => rows[0], End: () => rows[rows.length - 1] }[event.key];
  if (next) {
    const to = next();
    if (to) { stopAt(to); to.focus(); if (to.dataset.at) at = Number(to.dataset.at); }
  } else if (event.key === "Enter" || (event.key === "ArrowRight" && open === "false") || (event.key === "ArrowLeft" && open === "true")) row.click();
  else if (event.key === "ArrowLeft" && row.dataset.at) {
    const parent = shown.indexOf(shown[Number(row.dataset.at)].parent);
    if (parent >= 0) { at = parent; stopAt($("list").children[at]); $("list").children[at].focus(); }
  } else if (event.key === " ") row.querySelector(".chip")?.click();
  else return;
  event.preventDefault();
});
NARROW.addEventListener("change", () => showGraph());
$("search").addEventListener("input", showGroups);
$("open").addEventListener("click", () => { for (const item of items) item.open = true; showGraph(); });
$("close").addEventListener("click", () => { for (const item of items) item.open = false; showGraph(); });
$("clear").addEventListener("click", () => { chosenGroup = null; showGraph(); });
$("plain").addEventListener("change", () => { build(); showGraph(); });
$("find").addEventListener("input", () => {
  found = $("find").value.toLowerCase().trim();
  const i = found ? data.nodes.findIndex(n => `${n.name} ${n.path} ${n.op}`.toLowerCase().includes(found)) : -1;
  if (i >= 0) { const kept = chosenNode; goTo(i); if (kept === null) chosenNode = i; } else showGraph();
});

build();
openSome();
showGroups();
showGraph();
document.body.dataset.ready = "true";
