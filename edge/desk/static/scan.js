// One scan on the light table: raw counts drawn through a window of grey levels, and the answer by keys.
"use strict";

const table = document.getElementById("scan");
const facts = JSON.parse(table.dataset.viewer);
const words = facts.words;
const base = `/scan/${table.dataset.id}`;
const form = document.getElementById("answer");
const say = (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const opened = performance.now();

/** What the desk says, as paragraphs, instead of what it was asked for: what is wrong, and what to try. */
async function refusal(answer) {
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const lines = [...(page.getElementById("fault")?.children ?? [])];
  if (answer.status === 401) {
    const link = Object.assign(document.createElement("a"), { href: `/login?again=1&to=${base}`, textContent: " →" });
    lines[0]?.append(link);
  }
  return lines.length ? lines : [`${answer.status}`];
}

// ---- the picture --------------------------------------------------------------------------------------------

class Picture {
  /** `levels[k]` holds the scan at 1/2^k of its size: uint16 counts, row by row; the mean of what it stands for. */
  constructor(canvas, counts, width, height) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.width = width;
    this.height = height;
    this.levels = [{ counts, width, height }];
    this.low = 0;
    this.high = 65535;
    this.inverted = false;
    this.scale = 1; // screen pixels a pixel of the scan
    this.left = 0; // of the scan's origin on the screen
    this.top = 0;
    this.boxes = []; // drawn by the reader
    this.draft = null;
    this.shown = { boxes: true, reason: false, residual: false, image: false };
    this.layers = {};
    this.lut = new Uint32Array(65536);
    this.frames = 0;
    this.waits = false;
  }

  fit() {
    this.scale = Math.min(this.canvas.width / this.width, this.canvas.height / this.height);
    this.left = (this.canvas.width - this.width * this.scale) / 2;
    this.top = (this.canvas.height - this.height * this.scale) / 2;
    this.draw();
  }

  resize() {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth * ratio, this.canvas.clientHeight * ratio].map(Math.round);
    if (!width || !height || (width === this.canvas.width && height === this.canvas.height)) return;
    const centre = this.at(this.canvas.width / 2, this.canvas.height / 2);
    this.canvas.width = width;
    this.canvas.height = height;
    this.pixels = this.context.createImageData(width, height);
    this.words = new Uint32Array(this.pixels.data.buffer);
    if (this.fitted !== false) this.fit();
    else {
      this.left = width / 2 - centre.x * this.scale;
      this.top = height / 2 - centre.y * this.scale;
      this.draw();
    }
  }

  zoom(factor, x = this.canvas.width / 2, y = this.canvas.height / 2) {
    const least = Math.min(this.canvas.width / this.width / 2, this.canvas.height / this.height / 2, 1);
    const scale = Math.min(Math.max(this.scale * factor, least), 32);
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    const keep = 40; // of the scan stays in sight
    this.left = Math.min(Math.max(this.left + dx, keep - this.width * this.scale), this.canvas.width - keep);
    this.top = Math.min(Math.max(this.top + dy, keep - this.height * this.scale), this.canvas.height - keep);
    this.fitted = false;
    this.draw();
  }

  window(low, high) {
    low = Math.round(Math.min(Math.max(low, 0), 65534));
    this.low = low;
    this.high = Math.round(Math.min(Math.max(high, low + 1), 65535));
    this.draw();
  }

  /** Counts between which a share of what is in sight lies. */
  percentiles(share) {
    const a = this.at(0, 0), b = this.at(this.canvas.width, this.canvas.height);
    const [x0, x1] = [a.x, b.x].map((x) => Math.min(Math.max(Math.floor(x), 0), this.width - 1));
    const [y0, y1] = [a.y, b.y].map((y) => Math.min(Math.max(Math.floor(y), 0), this.height - 1));
    const step = Math.max(1, Math.round(Math.sqrt(((x1 - x0) * (y1 - y0)) / 200000)));
    const bins = new Uint32Array(65536);
    let total = 0;
    for (let y = y0; y <= y1; y += step)
      for (let x = x0; x <= x1; x += step, total++) bins[this.levels[0].counts[y * this.width + x]]++;
    const find = (rank) => { let sum = 0, count = 0; while (count < 65535 && (sum += bins[count]) <= rank) count++; return count; };
    return [find(total * share), find(total * (1 - share))];
  }

  /** Place on the scan, in its pixels, of a place on the screen. */
  at(x, y) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  count(x, y) {
    const [column, row] = [Math.floor(x), Math.floor(y)];
    if (column < 0 || row < 0 || column >= this.width || row >= this.height) return null;
    return this.levels[0].counts[row * this.width + column];
  }

  draw() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => { this.waits = false; this.paint(); });
  }

  /** The smallest level that still has a pixel for each pixel of the screen. */
  level() {
    let number = 0;
    while (this.scale * 2 ** (number + 1) <= 1) number++;
    while (this.levels.length <= number) this.levels.push(half(this.levels[this.levels.length - 1]));
    return this.levels[number];
  }

  paint() {
    const { width, height } = this.canvas;
    if (!this.words) return;
    const { lut, low, high } = this;
    const range = high - low;
    for (let count = 0; count < 65536; count++) {
      let grey = count <= low ? 0 : count >= high ? 255 : ((count - low) * 255 / range + 0.5) | 0;
      if (this.inverted) grey = 255 - grey;
      lut[count] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    const level = this.level();
    const scale = this.scale * (this.width / level.width);
    const scaleY = this.scale * (this.height / level.height);
    const columns = new Int32Array(width);
    for (let x = 0; x < width; x++) {
      const column = Math.floor((x + 0.5 - this.left) / scale);
      columns[x] = column >= 0 && column < level.width ? column : -1;
    }
    let from = 0, to = width;
    while (from < width && columns[from] < 0) from++;
    while (to > from && columns[to - 1] < 0) to--;
    const ground = matchMedia("(prefers-color-scheme: dark)").matches ? 0xff0f0d0b : 0xffe6e2df;
    const { counts } = level, { words } = this;
    for (let y = 0; y < height; y++) {
      const row = Math.floor((y + 0.5 - this.top) / scaleY), start = y * width;
      if (row < 0 || row >= level.height || from === to) { words.fill(ground, start, start + width); continue; }
      words.fill(ground, start, start + from);
      const line = row * level.width;
      for (let x = from; x < to; x++) words[start + x] = lut[counts[line + columns[x]]];
      words.fill(ground, start + to, start + width);
    }
    this.context.putImageData(this.pixels, 0, 0);
    this.overlays();
    this.frames++;
  }

  overlays() {
    const { context, left, top, scale } = this;
    const [width, height] = [this.width * scale, this.height * scale];
    context.imageSmoothingEnabled = false;
    if (this.shown.image && this.layers.image) context.drawImage(this.layers.image, left, top, width, height);
    for (const name of ["residual", "reason"]) {
      if (!this.shown[name] || !this.layers[name]) continue;
      const [x, y, w, h] = facts.layers[name];
      context.save();
      context.beginPath();
      context.rect(left, top, width, height); // cells reach beyond the scan
      context.clip();
      context.drawImage(this.layers[name], left + x * width, top + y * height, w * width, h * height);
      context.restore();
    }
    const outline = (box, colour, dash) => {
      const [x, y] = [left + (box.x_px / facts.step) * scale, top + (box.y_px / facts.step) * scale];
      const [w, h] = [(box.width_px / facts.step) * scale, (box.height_px / facts.step) * scale];
      context.setLineDash([]);
      context.lineWidth = 4;
      context.strokeStyle = "rgba(0, 0, 0, .6)";
      context.strokeRect(x, y, w, h);
      context.setLineDash(dash);
      context.lineWidth = 2;
      context.strokeStyle = colour;
      context.strokeRect(x, y, w, h);
    };
    if (this.shown.reason && facts.place) outline(facts.place, "#b6f36a", [8, 4]);
    if (this.shown.boxes) facts.boxes.forEach((box) => outline(box, "#00e5ff", []));
    this.boxes.forEach((box) => outline(box, "#ffe14d", []));
    if (this.draft) outline(this.draft, "#ffe14d", [6, 4]);
  }
}

function half({ counts, width, height }) {
  const [w, h] = [Math.max(width >> 1, 1), Math.max(height >> 1, 1)];
  const smaller = new Uint16Array(w * h);
  const right = width > 1 ? 1 : 0, below = height > 1 ? width : 0;
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const at = 2 * y * width + 2 * x;
      smaller[y * w + x] = (counts[at] + counts[at + right] + counts[at + below] + counts[at + below + right] + 2) >> 2;
    }
  return { counts: smaller, width: w, height: h };
}

// ---- tools --------------------------------------------------------------------------------------------------

const canvas = document.getElementById("picture");
let picture = null;
let drag = "window";
let corners = null; // of the box that keys draw, in pixels of the picture
let turned = false; // by 90 degrees to the right, as the style does it: the canvas itself knows nothing of it

function showWindow() {
  document.getElementById("window-values").textContent = `${picture.low} – ${picture.high} ${words.counts}`;
  form.elements.window_low.value = picture.low;
  form.elements.window_high.value = picture.high;
}

function setWindow(low, high) {
  picture.window(low, high);
  showWindow();
}

function boxesChanged() {
  form.elements.boxes.value = JSON.stringify(picture ? picture.boxes : []);
  const count = picture ? picture.boxes.length : 0;
  document.getElementById("box-count").textContent = count ? say("boxes_count", { count }) : words.boxes_none;
  document.querySelector('[data-do="box-remove"]').hidden = count === 0;
  keepDraft();
}

function setDrag(mode) {
  drag = mode;
  corners = null;
  if (picture?.draft) { picture.draft = null; picture.draw(); }
  const pointer = document.getElementById("pointer");
  if (pointer) pointer.textContent = mode === "box" ? words.box_hint : "\u00a0";
  document.querySelectorAll("[data-drag]").forEach((button) => button.setAttribute("aria-checked", button.dataset.drag === mode));
  canvas.style.cursor = mode === "pan" ? "grab" : "crosshair";
}

/** Load a layer once; whether it can be shown. Where not, a note says why. */
async function layer(name) {
  const note = document.getElementById("layer-problem");
  note.hidden = true;
  if (picture.layers[name]) return true;
  const lines = [words.layer_failed];
  try {
    const answer = await fetch(`${base}/${name}.png`);
    if (answer.ok) {
      picture.layers[name] = await createImageBitmap(await answer.blob());
      return true;
    }
    lines.push(" ", (await refusal(answer)).at(-1));
  } catch { /* the desk does not answer: nothing more to say of it */ }
  note.replaceChildren(...lines);
  note.hidden = false;
  return false;
}

async function toggle(name) {
  const button = document.querySelector(`[data-toggle="${name}"]`);
  if (!button) return;
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", on);
  if (name === "invert") picture.inverted = on;
  else {
    if (on && name !== "boxes" && !(await layer(name))) return button.setAttribute("aria-pressed", false);
    picture.shown[name] = on;
    const legend = document.getElementById(`legend-${name}`);
    if (legend) legend.hidden = !on;
  }
  picture.draw();
}

const windows = {
  model: () => setWindow(...(facts.bounds ?? picture.percentiles(0.005))),
  full: () => setWindow(0, 65535),
  local: () => setWindow(...picture.percentiles(0.01)),
};

/** Lay the picture on its side, or upright again; the next scans lie as this one. */
function turn(on) {
  turned = on;
  sessionStorage.setItem("turned", on ? "1" : "");
  canvas.classList.toggle("turned", on);
  document.querySelector('[data-do="turn"]').setAttribute("aria-pressed", on);
  picture.resize();
}

/** One of the windows, which the next scans open with, too. */
function chooseWindow(name) {
  sessionStorage.setItem("window", name);
  windows[name]();
}

const deeds = {
  "window-model": () => chooseWindow("model"),
  "window-full": () => chooseWindow("full"),
  "window-local": () => chooseWindow("local"),
  "zoom-in": () => picture.zoom(1.4),
  "zoom-out": () => picture.zoom(1 / 1.4),
  fit: () => { picture.fitted = undefined; picture.fit(); },
  "one-to-one": () => picture.zoom(1 / picture.scale),
  turn: () => turn(!turned),
  "box-remove": () => { picture.boxes.pop(); boxesChanged(); picture.draw(); },
};

function level(shift, stretch) {
  const middle = (picture.low + picture.high) / 2, width = picture.high - picture.low;
  const half = Math.max((width * stretch) / 2, 1), centre = middle + width * shift;
  setWindow(centre - half, centre + half);
}

// ---- pointer ------------------------------------------------------------------------------------------------

const pointers = new Map();
let start = null;

/** Where the pointer is: on the canvas, in its pixels; and to the right and down as the reader sees it. */
function place(event) {
  const rect = canvas.getBoundingClientRect();
  const ratio = canvas.width / (turned ? rect.height : rect.width);
  const [right, down] = [(event.clientX - rect.left) * ratio, (event.clientY - rect.top) * ratio];
  return turned ? { x: down, y: canvas.height - right, right, down } : { x: right, y: down, right, down };
}

function onDown(event) {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  const mode = event.button === 1 || event.shiftKey ? "pan" : drag;
  start = { ...place(event), low: picture.low, high: picture.high, mode };
  if (event.button === 1) event.preventDefault();
}

function onMove(event) {
  const now = place(event), last = pointers.get(event.pointerId);
  const on = picture.at(now.x, now.y), count = picture.count(on.x, on.y);
  document.getElementById("pointer").textContent =
    count === null ? "\u00a0" : `x ${Math.floor(on.x) * facts.step}, y ${Math.floor(on.y) * facts.step}: ${count} ${words.counts}`;
  if (!last) return;
  pointers.set(event.pointerId, now);
  if (pointers.size === 2) { // two fingers: move and zoom
    const [a, b] = [...pointers.values()], other = a === now ? b : a;
    const distance = (p) => Math.hypot(p.x - other.x, p.y - other.y) || 1;
    picture.zoom(distance(now) / distance(last), (now.x + other.x) / 2, (now.y + other.y) / 2);
    picture.pan((now.x - last.x) / 2, (now.y - last.y) / 2);
  } else if (start.mode === "pan") {
    picture.pan(now.x - last.x, now.y - last.y);
  } else if (start.mode === "box") {
    picture.draft = boxOf(start, now);
    picture.draw();
  } else {
    const width = start.high - start.low, reach = Math.min(canvas.width, 800);
    const half = Math.max((width * 2 ** ((3 * (now.right - start.right)) / reach)) / 2, 1);
    const centre = (start.low + start.high) / 2 + ((now.down - start.down) / reach) * Math.max(width, 64);
    setWindow(centre - half, centre + half);
  }
}

function onUp(event) {
  pointers.delete(event.pointerId);
  if (picture.draft) {
    const box = picture.draft;
    picture.draft = null;
    if (event.type === "pointerup") addBox(box);
    setDrag("window");
  }
}

function addBox(box) {
  if (box.width_px >= 3 && box.height_px >= 3 && picture.boxes.length < 50) {
    picture.boxes.push(box);
    boxesChanged();
    if (!form.elements.decision.value) choose("abnormal");
  }
  picture.draw();
}

/** An arrow in box mode: the first one puts a box into the middle of what is in sight, others move or size it. */
function boxByKey(key, isSize) {
  const a = picture.at(0, 0), b = picture.at(canvas.width, canvas.height);
  if (!corners) {
    const part = (low, high, most, share) => Math.max(low, 0) + (Math.min(high, most) - Math.max(low, 0)) * share;
    corners = [0.4, 0.6].map((share) => ({ x: part(a.x, b.x, picture.width, share), y: part(a.y, b.y, picture.height, share) }));
  } else {
    const step = Math.max((b.y - a.y) / 100, 1);
    const down = isSize && turned ? -step : step; // to the right enlarges, whichever side of the scan that is
    const dx = { ArrowLeft: -step, ArrowRight: step }[key] ?? 0, dy = { ArrowUp: -down, ArrowDown: down }[key] ?? 0;
    for (const corner of isSize ? corners.slice(1) : corners) { corner.x += dx; corner.y += dy; }
  }
  const box = boxBetween(...corners);
  picture.draft = box;
  document.getElementById("pointer").textContent = `x ${box.x_px}, y ${box.y_px}: ${box.width_px} × ${box.height_px} px`;
  picture.draw();
}

const boxOf = (a, b) => boxBetween(picture.at(a.x, a.y), picture.at(b.x, b.y));

function boxBetween(p, q) {
  const clip = (value, most) => Math.round(Math.min(Math.max(value, 0), most)) * facts.step;
  const [x0, x1] = [p.x, q.x].sort((m, n) => m - n).map((x) => clip(x, picture.width - 1));
  const [y0, y1] = [p.y, q.y].sort((m, n) => m - n).map((y) => clip(y, picture.height - 1));
  return { x_px: x0, y_px: y0, width_px: x1 - x0, height_px: y1 - y0 };
}

// ---- answer -------------------------------------------------------------------------------------------------

const draftKey = `draft ${table.dataset.id}`;

function choose(decision) {
  document.querySelector("details.answer").open = true;
  form.querySelector(`[name="decision"][value="${decision}"]`).checked = true;
  keepDraft();
}

/** What was entered survives a session that ends: in this window alone, until it is saved. */
function keepDraft() {
  const kinds = [...form.querySelectorAll('[name="kinds"]:checked')].map((box) => box.value);
  const { decision, severity, comment, boxes } = form.elements;
  const draft = { decision: decision.value, severity: severity.value, comment: comment.value, kinds, boxes: boxes.value };
  const isEmpty = !draft.decision && !draft.severity && !draft.comment && !kinds.length && draft.boxes === "[]";
  if (isEmpty) sessionStorage.removeItem(draftKey);
  else sessionStorage.setItem(draftKey, JSON.stringify(draft));
}

function restoreDraft() {
  const draft = JSON.parse(sessionStorage.getItem(draftKey) || "null");
  if (!draft) return;
  document.querySelector("details.answer").open = true;
  if (draft.decision) choose(draft.decision);
  form.elements.severity.value = draft.severity;
  form.elements.comment.value = draft.comment;
  form.querySelectorAll('[name="kinds"]').forEach((box) => { box.checked = draft.kinds.includes(box.value); });
  if (picture) picture.boxes = JSON.parse(draft.boxes);
  boxesChanged();
}

/** The place and window of the picture, for the page that shows what the line said of it. */
function keepView() {
  const { low, high, scale, left, top, fitted, inverted } = picture;
  const view = { low, high, scale, left, top, fitted, inverted };
  sessionStorage.setItem("view", JSON.stringify({ id: table.dataset.id, size: [canvas.width, canvas.height], view }));
}

function restoreView() {
  const kept = JSON.parse(sessionStorage.getItem("view") || "null");
  sessionStorage.removeItem("view");
  if (kept?.id !== table.dataset.id) return;
  Object.assign(picture, kept.view);
  if (picture.fitted !== false) picture.fit();
  else picture.pan((canvas.width - kept.size[0]) / 2, (canvas.height - kept.size[1]) / 2); // the page may have other tools now
  document.querySelector('[data-toggle="invert"]').setAttribute("aria-pressed", picture.inverted);
  showWindow();
}

function problem(...lines) {
  const note = document.getElementById("problem");
  note.replaceChildren(...lines);
  note.hidden = lines.length === 0;
}

async function save() {
  if (!form.elements.decision.value) return problem(words.choose);
  const button = form.querySelector("button.main");
  if (button.disabled) return;
  button.disabled = true;
  problem();
  form.elements.seconds.value = ((performance.now() - opened) / 1000).toFixed(1);
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (answer.ok) {
      sessionStorage.removeItem(draftKey);
      if (picture) keepView();
      location.assign(answer.url);
      return;
    }
    problem(...(await refusal(answer)));
  } catch {
    problem(words.no_answer);
  }
  button.disabled = false;
}

form.addEventListener("submit", (event) => { event.preventDefault(); save(); });
// Off until here: Enter would send the form without the time that the answer took, and onto another page what goes wrong.
form.querySelector("button.main").disabled = false;
form.addEventListener("input", keepDraft);

// ---- keys ---------------------------------------------------------------------------------------------------

const keys = {
  n: () => choose("normal"), a: () => choose("abnormal"), u: () => choose("undecided"),
  c: () => { document.querySelector("details.answer").open = true; form.elements.comment.focus(); },
  j: () => location.assign(table.dataset.next),
  g: () => {
    const { severity } = form.elements;
    severity.selectedIndex = (severity.selectedIndex + 1) % severity.length;
    changed();
  },
};

function changed() {
  document.querySelector("details.answer").open = true;
  keepDraft();
}

/** Number of the kind that a key stands for, from 0: 1 to 9, and with Shift the tenth and on, whatever a digit's key types then. */
function kindOf(event) {
  if (/^[1-9]$/.test(event.key)) return event.key - 1;
  const digit = event.shiftKey && /^Digit([1-9])$/.exec(event.code);
  return digit ? +digit[1] + 8 : null;
}
const pictureKeys = {
  m: deeds["window-model"], f: deeds["window-full"], l: deeds["window-local"],
  w: () => level(-0.05, 1), s: () => level(0.05, 1), q: () => level(0, 1.1), e: () => level(0, 1 / 1.1),
  "+": deeds["zoom-in"], "=": deeds["zoom-in"], "-": deeds["zoom-out"], 0: deeds.fit, z: deeds["one-to-one"], t: deeds.turn,
  ArrowLeft: () => picture.pan(60, 0), ArrowRight: () => picture.pan(-60, 0),
  ArrowUp: () => picture.pan(0, 60), ArrowDown: () => picture.pan(0, -60),
  b: () => setDrag(drag === "box" ? "window" : "box"), Backspace: deeds["box-remove"],
  y: () => toggle("reason"), r: () => toggle("residual"), x: () => toggle("boxes"), v: () => toggle("image"), i: () => toggle("invert"),
};

/** The arrow that does on the canvas what this one does before the reader's eyes. */
const turnedArrows = { ArrowRight: "ArrowUp", ArrowUp: "ArrowLeft", ArrowLeft: "ArrowDown", ArrowDown: "ArrowRight" };

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const pressed = (turned && turnedArrows[event.key]) || event.key;
  const typing = event.target.closest("input:not([type=radio]):not([type=checkbox]), select, textarea");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (drag !== "window") setDrag("window");
    else location.assign(table.dataset.queue);
    return;
  }
  if (!typing && picture && drag === "box" && (event.key.startsWith("Arrow") || (event.key === "Enter" && picture.draft))) {
    if (event.key === "Enter") { addBox(picture.draft); setDrag("window"); }
    else boxByKey(pressed, event.shiftKey);
    event.preventDefault();
    return;
  }
  if (typing || (event.target.closest("button, a, summary") && ["Enter", " "].includes(event.key))) return;
  const key = pressed.length === 1 ? pressed.toLowerCase() : pressed, kind = kindOf(event);
  if (key === "Enter") {
    if (form.elements.decision.value) save();
    else if (document.getElementById("next")) location.assign(table.dataset.next);
    else problem(words.choose);
  } else if (kind !== null) {
    const box = form.querySelectorAll('[name="kinds"]')[kind];
    if (box) { box.checked = !box.checked; changed(); }
  } else if (keys[key]) keys[key]();
  else if (picture && pictureKeys[key] && !(key.startsWith("Arrow") && event.target.matches("input"))) pictureKeys[key]();
  else return;
  event.preventDefault();
});

document.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => picture && deeds[button.dataset.do]()));
document.querySelectorAll("[data-toggle]").forEach((button) => button.addEventListener("click", () => picture && toggle(button.dataset.toggle)));
document.querySelectorAll("[data-drag]").forEach((button) => button.addEventListener("click", () => setDrag(button.dataset.drag)));

// ---- start --------------------------------------------------------------------------------------------------

async function begin() {
  restoreDraft();
  if (!canvas) return;
  const veil = document.getElementById("veil");
  try {
    const answer = await fetch(facts.counts);
    if (!answer.ok) return noPicture(await refusal(answer));
    const counts = new Uint16Array(await answer.arrayBuffer());
    if (counts.length !== facts.width * facts.height) return noPicture([words.load_failed]);
    picture = new Picture(canvas, counts, facts.width, facts.height);
  } catch {
    return noPicture([words.load_failed]);
  }
  turn(Boolean(sessionStorage.getItem("turned")));
  windows[sessionStorage.getItem("window") ?? "model"]();
  restoreView();
  picture.paint();
  veil.hidden = true;
  canvas.dataset.ready = Math.round(performance.now());
  restoreDraft();
  new ResizeObserver(() => picture.resize()).observe(canvas);
  canvas.addEventListener("pointerdown", onDown);
  canvas.addEventListener("pointermove", onMove);
  canvas.addEventListener("pointerup", onUp);
  canvas.addEventListener("pointercancel", onUp);
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); const { x, y } = place(event); picture.zoom(2 ** (-event.deltaY / 400), x, y); }, { passive: false });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => picture.draw());
  canvas.focus({ preventScroll: true });
}

/** The veil says what is the matter; tools that have nothing to work on are off, the answer is not. */
function noPicture(lines) {
  const veil = document.getElementById("veil");
  const box = document.createElement("div");
  box.append(...lines);
  veil.replaceChildren(box);
  veil.classList.add("failed");
  document.querySelectorAll(".tools button").forEach((button) => { button.disabled = true; });
}

/** The small pictures of the neighbours: each costs the desk as much as the large one, so they come after it. */
function showNeighbours() {
  document.querySelectorAll("img[data-src]").forEach((image) => { image.src = image.dataset.src; });
}

begin().finally(showNeighbours);
