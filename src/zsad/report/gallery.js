const data = JSON.parse(document.getElementById("rows").textContent);
const [PATH, SCORE, LABEL, CLASS, P, OVERLAY, LINK, ERROR, WARNING, NUMBER, AREAS] = [...Array(11).keys()];
const get = id => document.getElementById(id), digits = (value, n) => String(+value.toPrecision(n));
const gallery = get("gallery"), words = ["normal", "anomalous"];
const state = { part: 0, found: [] };

for (const [number, name] of data.classes.entries()) get("class").append(new Option(name || "(none)", number));
get("class").parentElement.hidden = data.classes.length < 2;
get("view").parentElement.hidden = !data.rows.some(row => row[OVERLAY]);

const lowest = -Infinity, biggest = row => row[AREAS].length ? row[AREAS][0] : -1;
const by = (key, sign) => (a, b) => sign * (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
const scored = row => row[SCORE] === null ? lowest : row[SCORE];
const orders = { high: by(scored, -1), low: (a, b) => (a[SCORE] === null) - (b[SCORE] === null) || by(scored, 1)(a, b),
  area: by(biggest, -1), path: by(row => row[PATH], 1) };

function choose() {
  const of_class = get("class").value, label = get("label").value, trouble = get("trouble").value;
  const text = get("search").value.toLowerCase();
  state.found = data.rows.filter(row => (of_class === "" || row[CLASS] === +of_class)
    && (label === "" || (label === "none" ? row[LABEL] === null : row[LABEL] === +label))
    && (trouble === "" || (trouble === "error") === (row[ERROR] !== null))
    && (!text || row[PATH].toLowerCase().includes(text))).sort(orders[get("order").value]);
  state.part = 0;
  show();
}

function show() {
  const parts = Math.max(1, Math.ceil(state.found.length / data.size));
  const first = state.part * data.size, rows = state.found.slice(first, first + data.size);
  gallery.replaceChildren(...rows.map(card));
  get("back").disabled = state.part === 0, get("next").disabled = state.part >= parts - 1;
  get("count").textContent = rows.length
    ? `${first + 1} to ${first + rows.length} of ${state.found.length} (part ${state.part + 1} of ${parts})` : "none";
}

function line(text, kind) {
  const made = document.createElement("div");
  made.textContent = text, made.className = kind || "";
  return made;
}

function card(row) {
  const figure = document.createElement("figure"), link = document.createElement("a");
  const caption = document.createElement("figcaption"), bold = document.createElement("b");
  figure.className = row[LABEL] === 1 ? "alarm" : "";
  link.href = row[LINK], link.target = "_blank", link.rel = "noopener", link.title = row[PATH];
  if (row[ERROR] === null) {
    const image = document.createElement("img"), overlay = get("view").value === "overlay" && row[OVERLAY];
    image.loading = "lazy", image.decoding = "async", image.alt = row[PATH];
    image.src = overlay || row[LINK];
    image.onerror = () => image.replaceWith(line("Browsers do not show this file, or it is gone.", "wrong"));
    link.append(image);
  }
  bold.textContent = row[SCORE] === null ? "no score" : digits(row[SCORE], 5);
  const said = [row[LABEL] === null ? null : words[row[LABEL]], row[P] === null ? null : `p = ${digits(row[P], 3)}`,
    data.classes.length > 1 ? data.classes[row[CLASS]] : null].filter(one => one);
  const head = line(""), name = line("");
  head.append(bold, said.length ? `  ${said.join(", ")}` : ""), link.append(name), name.textContent = row[PATH];
  caption.append(head);
  if (row[NUMBER]) caption.append(line(regions(row)));
  if (row[ERROR] !== null) caption.append(line(row[ERROR], "wrong"));
  if (row[WARNING] !== null) caption.append(line(row[WARNING], "wrong"));
  caption.prepend(link), figure.append(caption);
  return figure;
}

function regions(row) {
  const mm = data.mm_per_pixel, area = value => `${value} px` + (mm ? ` (${digits(value * mm * mm, 3)} mm²)` : "");
  const more = row[NUMBER] > row[AREAS].length ? ", ..." : "";
  return `${row[NUMBER]} region${row[NUMBER] > 1 ? "s" : ""}: ${row[AREAS].map(area).join(", ")}${more}`;
}

for (const id of ["class", "label", "trouble", "order"]) get(id).addEventListener("change", choose);
get("search").addEventListener("input", choose);
get("view").addEventListener("change", show);
for (const [id, step] of [["back", -1], ["next", 1]]) get(id).addEventListener("click", () => {
  state.part += step, show(), scrollTo({ top: get("controls").offsetTop });
});
choose();
