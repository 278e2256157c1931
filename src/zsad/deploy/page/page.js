"use strict";
// Images go to the server one by one; limits, colours and the ZIP are made here, from the raw map of each image.

const at = (id) => document.getElementById(id);
const SIDE = 1024; // longer side of a picture that is kept
const IN_FLIGHT = 4;
const ALPHAS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5];
const KNOWN = /\.(png|jpe?g|bmp|tiff?|webp)$/i;

const state = { model: null, colours: null, token: "", items: [], waiting: [], running: new Set(), chosen: null, picked: false, heat: true, frame: null, shown: null, passed: "", done: 0, asked: 0 };

// ---- the server

async function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => null);
  const error = new Error(told?.error?.message ?? `The server answers ${answer.status}.`);
  error.status = answer.status;
  error.wait = Number(answer.headers.get("Retry-After")) || 1;
  throw error;
}

async function meet() {
  try {
    state.model = await ask("v1/model");
  } catch (error) {
    at("token-form").hidden = error.status !== 401;
    at("model").textContent = error.status === 401 ? "This server asks for a token." : `No server: ${error.message}`;
    return;
  }
  at("token-form").hidden = true;
  const { meta, classes, calibration, colours } = state.model;
  state.colours = Uint8Array.from(colours.match(/../g), (pair) => parseInt(pair, 16));
  at("classes").replaceChildren(...classes.map((name) => Object.assign(document.createElement("option"), { value: name })));
  if (!at("class-name").value) at("class-name").value = classes[0];
  at("model").textContent = [meta.model?.method, meta.model?.backbone, calibration ? "calibrated" : "no calibration: there is no universal limit"].filter(Boolean).join(", ");
  refresh();
}

const pause = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, 1000 * seconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

async function score(item, signal) {
  const query = new URLSearchParams({ map: "levels", class_name: item.className });
  for (;;) {
    try {
      const form = new FormData();
      form.append("image", item.file, item.name);
      return await ask(`v1/score?${query}`, { method: "POST", body: form, signal });
    } catch (error) {
      if (error.status !== 503) throw error;
      await pause(error.wait, signal);
    }
  }
}

// ---- images come in

function add(files) {
  const known = files.filter((file) => KNOWN.test(file.name));
  for (const file of known) {
    const item = { file, name: file.webkitRelativePath || file.fullName || file.name, className: at("class-name").value.trim(), row: null, error: null };
    state.items.push(item);
    state.waiting.push(item);
  }
  const passed = files.length - known.length;
  state.asked += known.length;
  state.passed = passed ? ` ${passed} file(s) are no images by their names.` : "";
  say(state.passed);
  while (state.running.size < IN_FLIGHT && state.waiting.length) work();
  refresh();
}

async function work() {
  const item = state.waiting.shift();
  const control = new AbortController();
  state.running.add(control);
  try {
    const row = await score(item, control.signal);
    const picture = await pictureOf(item.file);
    const bytes = Uint8Array.from(atob(row.map.data), (one) => one.charCodeAt(0));
    item.map = { width: row.map.width, height: row.map.height, low: row.map.low, high: row.map.high, levels: new Uint16Array(bytes.buffer) };
    item.thumb = thumbOf(picture ?? blank(row.width, row.height));
    item.row = { ...row, path: item.name, map: null };
  } catch (error) {
    if (control.signal.aborted) state.items = state.items.filter((one) => one !== item);
    else item.error = error.message;
  }
  state.running.delete(control);
  state.done += 1;
  if (state.waiting.length) work();
  refresh();
}

async function pictureOf(file) {
  const whole = await createImageBitmap(file).catch(() => null); // a browser reads no TIFF: then the map stands alone
  if (!whole) return null;
  const canvas = blank(whole.width, whole.height);
  canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  return canvas;
}

function thumbOf(picture) {
  const share = 160 / Math.max(picture.width, picture.height);
  const thumb = Object.assign(document.createElement("canvas"), { width: Math.max(1, share * picture.width), height: Math.max(1, share * picture.height) });
  thumb.getContext("2d").drawImage(picture, 0, 0, thumb.width, thumb.height);
  thumb.setAttribute("aria-hidden", "true"); // the words below say it
  return thumb;
}

function blank(width, height) {
  const share = Math.min(1, SIDE / Math.max(width, height));
  return Object.assign(document.createElement("canvas"), { width: Math.max(1, Math.round(share * width)), height: Math.max(1, Math.round(share * height)) });
}

async function walk(entry, below = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.fullName = below + file.name;
    return [file];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred entries at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const one of some) found.push(...await walk(one, `${below}${entry.name}/`));
  }
  return found;
}

async function dropped(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...data.files];
  if (!entries.length) return files;
  return (await Promise.all(entries.map((entry) => walk(entry)))).flat();
}

// ---- limits

const scored = () => state.items.filter((item) => item.row).sort((a, b) => b.row.score - a.row.score);
const byAlpha = () => state.items.some((item) => item.row && item.row.p_value !== null);
const short = (value) => Number(value.toPrecision(4)).toString();
const end = (slider, low, high) => (slider.value === slider.max ? Infinity : low + (high - low) * slider.value / slider.max); // the end: no limit
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

function limits() {
  const items = scored();
  const scores = items.map((item) => item.row.score);
  const low = least(items.map((item) => item.map.low)), high = most(items.map((item) => item.map.high));
  return { items, alpha: byAlpha() ? ALPHAS[at("limit").value] : null, score: end(at("limit"), least(scores), most(scores)), low, high, outline: end(at("outline"), low, high) };
}

const limited = (now) => now.alpha !== null || Number.isFinite(now.score);

function alarms(item, now) {
  return now.alpha === null ? item.row.score >= now.score : item.row.p_value <= now.alpha;
}

function setSliders() {
  const slider = at("limit");
  const first = slider.disabled;
  if (first && byAlpha()) {
    slider.max = ALPHAS.length - 1;
    const own = Object.values(state.model.calibration.classes)[0].alpha ?? 0.05;
    slider.value = ALPHAS.reduce((best, alpha, place) => Math.abs(alpha - own) < Math.abs(ALPHAS[best] - own) ? place : best, 0);
  }
  slider.disabled = at("outline").disabled = false;
  const pixel = state.model.calibration && Object.values(state.model.calibration.classes)[0].pixel_threshold;
  if (first && pixel) {
    const { low, high } = limits();
    at("outline").value = Math.min(1000, Math.max(0, 1000 * (pixel - low) / (high - low || 1)));
  }
}

// ---- drawing

function paint(canvas, picture, item, now, heat) {
  const { map } = item;
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const layer = Object.assign(document.createElement("canvas"), { width: map.width, height: map.height });
  const pixels = new ImageData(map.width, map.height);
  const step = (map.high - map.low) / 65535, spread = now.high - now.low || 1, opacity = heat ? at("opacity").value / 100 : 0;
  const inside = new Uint8Array(map.levels.length);
  map.levels.forEach((level, place) => {
    const value = map.low + level * step;
    const share = (value - now.low) / spread, colour = 3 * Math.round(255 * share);
    inside[place] = value >= now.outline;
    pixels.data.set(state.colours.subarray(colour, colour + 3), 4 * place);
    pixels.data[4 * place + 3] = 255 * opacity * (0.1 + 0.9 * share);
  });
  layer.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  drawOutline(context, inside, map, canvas);
}

function drawOutline(context, inside, map, canvas) {
  const x = canvas.width / map.width, y = canvas.height / map.height;
  const is = (row, column) => row >= 0 && column >= 0 && row < map.height && column < map.width && inside[row * map.width + column];
  context.beginPath();
  for (let row = 0; row < map.height; row += 1) {
    for (let column = 0; column < map.width; column += 1) {
      if (!is(row, column)) continue;
      if (!is(row - 1, column)) { context.moveTo(column * x, row * y); context.lineTo((column + 1) * x, row * y); }
      if (!is(row + 1, column)) { context.moveTo(column * x, (row + 1) * y); context.lineTo((column + 1) * x, (row + 1) * y); }
      if (!is(row, column - 1)) { context.moveTo(column * x, row * y); context.lineTo(column * x, (row + 1) * y); }
      if (!is(row, column + 1)) { context.moveTo((column + 1) * x, row * y); context.lineTo((column + 1) * x, (row + 1) * y); }
    }
  }
  context.strokeStyle = "#00dc5a";
  context.lineWidth = Math.max(1.5, canvas.width / 300);
  context.stroke();
}

const words = (item, now) => {
  const p = item.row.p_value === null ? "" : `, p ${item.row.p_value.toFixed(3)}`;
  const word = !limited(now) ? "" : alarms(item, now) ? ", anomalous" : ", normal";
  return `score ${short(item.row.score)}${p}${word}`;
};

function card(item, now) {
  item.element ??= document.createElement("li");
  const element = item.element;
  element.id ||= `image-${Math.random().toString(36).slice(2)}`;
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", String(item === state.chosen));
  element.onclick = () => { Object.assign(state, { chosen: item, picked: true }); refresh(); };
  const said = document.createElement("span");
  said.textContent = item.error ?? words(item, now);
  said.className = item.error || alarms(item, now) ? "alarm" : limited(now) ? "normal" : "";
  element.replaceChildren(...(item.thumb ? [item.thumb] : []), item.name, document.createElement("br"), said);
  return element;
}

function refresh() {
  state.frame ??= requestAnimationFrame(() => { state.frame = null; show(); });
}

function show() {
  const any = state.items.some((item) => item.row);
  if (any && state.model) setSliders();
  const now = limits();
  const shown = order();
  if (!state.picked || !shown.includes(state.chosen)) state.chosen = shown[0] ?? null; // the highest, until one is picked
  at("list").replaceChildren(...shown.map((item) => card(item, now)));
  at("list").setAttribute("aria-activedescendant", state.chosen?.element.id ?? "");
  at("results").hidden = !shown.length;
  const busy = state.running.size > 0;
  at("cancel").disabled = !busy;
  at("clear").disabled = busy || !shown.length;
  at("save").disabled = busy || !any;
  at("progress").hidden = !busy;
  at("progress").max = state.asked || 1;
  at("progress").value = state.done;
  if (state.asked) say(`${state.done} of ${state.asked} done${any && limited(now) ? `, ${now.items.filter((item) => alarms(item, now)).length} anomalous at this limit` : ""}.${state.passed}`);
  draw(now);
}

async function draw(now) {
  const item = state.chosen, canvas = at("shown");
  at("limit-said").textContent = !now.items.length ? "no images yet" : !limited(now) ? "no limit" : now.alpha === null ? `from score ${short(now.score)}` : `${Number((100 * now.alpha).toPrecision(3))} % of normal images would alarm`;
  at("outline-said").textContent = Number.isFinite(now.outline) ? `from map value ${short(now.outline)}` : "none";
  at("opacity-said").textContent = state.heat ? `${at("opacity").value} %` : "hidden (space shows it)";
  canvas.hidden = !item?.row;
  at("caption").textContent = item ? `${item.name}: ${item.error ?? words(item, now)}` : "";
  if (!item?.row) return;
  if (state.shown?.item !== item) {
    const picture = await pictureOf(item.file) ?? blank(item.row.width, item.row.height);
    if (state.chosen !== item) return; // another one was chosen meanwhile
    state.shown = { item, picture };
  }
  paint(canvas, state.shown.picture, item, now, state.heat);
  canvas.setAttribute("aria-label", `${item.name}, ${words(item, now)}; ${state.heat ? "with" : "without"} heat map, values ${short(item.map.low)} to ${short(item.map.high)}`);
}

const say = (text) => { at("said").textContent = text; };

// ---- what one takes away: a ZIP file, stored without compression

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k += 1) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
const crc = (bytes) => (bytes.reduce((sum, byte) => TABLE[(sum ^ byte) & 255] ^ (sum >>> 8), -1) ^ -1) >>> 0;

function zip(files) {
  const parts = [], index = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const title = new TextEncoder().encode(name);
    const common = new DataView(new ArrayBuffer(26)); // version, flags (UTF-8), method, time, date, CRC, sizes, lengths
    [[0, 20, 2], [2, 0x800, 2], [4, 0, 2], [6, 0, 2], [8, 0x21, 2], [10, crc(bytes), 4], [14, bytes.length, 4], [18, bytes.length, 4], [22, title.length, 2]].forEach(([place, value, size]) => (size === 2 ? common.setUint16(place, value, true) : common.setUint32(place, value, true)));
    parts.push(Uint8Array.of(80, 75, 3, 4), common.buffer, title, bytes);
    const more = new DataView(new ArrayBuffer(14));
    more.setUint32(10, offset, true);
    index.push(Uint8Array.of(80, 75, 1, 2, 20, 0), common.buffer, more.buffer, title);
    offset += 30 + title.length + bytes.length;
  }
  const size = index.reduce((sum, one) => sum + one.byteLength, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, offset, true);
  return new Blob([...parts, ...index, end.buffer], { type: "application/zip" });
}

const COLUMNS = ["path", "class_name", "score", "label", "error", "warning", "p_value", "p_upper", "alarm_rate", "n_regions", "width", "height"];

function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula in a spreadsheet
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

async function save() {
  const now = limits(), encode = (text) => new TextEncoder().encode(text);
  const rows = [...now.items.map((item) => ({ ...item.row, label: limited(now) ? Number(alarms(item, now)) : null })), ...state.items.filter((item) => item.error).map((item) => ({ path: item.name, class_name: item.className, error: item.error }))];
  const files = [
    { name: "scores.csv", bytes: encode([COLUMNS, ...rows.map((row) => COLUMNS.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n") },
    { name: "scores.jsonl", bytes: encode(rows.map((row) => JSON.stringify(row) + "\n").join("")) },
  ];
  const taken = new Set();
  for (const item of now.items) {
    const canvas = document.createElement("canvas");
    paint(canvas, await pictureOf(item.file) ?? blank(item.row.width, item.row.height), item, now, true);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const parts = item.name.split("/").filter((part) => part && part !== "." && part !== "..");
    let name = `overlays/${parts.join("/")}.png`;
    for (let number = 2; taken.has(name); number += 1) name = `overlays/${parts.join("/")}-${number}.png`;
    taken.add(name);
    files.push({ name, bytes: new Uint8Array(await blob.arrayBuffer()) });
  }
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(zip(files)), download: "zsad-results.zip" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- hands and keys

function move(event) {
  const shown = order();
  const place = shown.indexOf(state.chosen), last = shown.length - 1;
  const next = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: last }[event.key];
  if (event.key === " ") { state.heat = !state.heat; } else if (next === undefined) return;
  else state.chosen = shown[Math.min(last, Math.max(0, next))];
  event.preventDefault();
  state.picked = true;
  show();
  state.chosen?.element.scrollIntoView({ block: "nearest" });
}

const order = () => [...scored(), ...state.items.filter((item) => item.error)];

at("token-form").onsubmit = (event) => { event.preventDefault(); state.token = at("token").value.trim(); meet(); };
for (const id of ["files", "folder"]) at(id).onchange = (event) => { add([...event.target.files]); event.target.value = ""; };
for (const id of ["limit", "outline", "opacity"]) at(id).oninput = () => refresh();
at("cancel").onclick = () => { state.items = state.items.filter((item) => !state.waiting.includes(item)); state.asked -= state.waiting.length; state.waiting = []; for (const one of state.running) one.abort(new DOMException("cancelled", "AbortError")); };
at("clear").onclick = () => { Object.assign(state, { items: [], chosen: null, picked: false, shown: null, done: 0, asked: 0 }); at("limit").disabled = at("outline").disabled = true; say(""); refresh(); };
at("save").onclick = save;
at("list").onkeydown = move;
const drop = at("drop");
document.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
document.ondragleave = (event) => { if (!event.relatedTarget) drop.classList.remove("over"); };
document.ondrop = async (event) => { event.preventDefault(); drop.classList.remove("over"); add(await dropped(event.dataTransfer)); };
meet();
