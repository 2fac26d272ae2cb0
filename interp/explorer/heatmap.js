// The maps: their values, their colours, and how one is drawn.

const ROW = 17; // height of a heatmap's row in pixels
const AXIS = 26; // below its rows
const EMPTY = "#e8e8e8";

function colour(map, value) {
  if (value === null) return EMPTY;
  const [low, high] = map.ends;
  const last = map.palette.length - 1;
  return map.palette[Math.max(0, Math.min(last, Math.round((last * (value - low)) / (high - low))))];
}

// A map with the rows that are new; the map before it if there was one.
function grown(map, news, layers) {
  const fresh = news.first || map === undefined;
  const values = fresh
    ? Array.from({ length: news.n_tokens }, () => Array(layers).fill(null))
    : map.values.map((row) => row);
  for (const [token, row] of Object.entries(news.rows)) values[token] = row;
  return { ...(fresh ? {} : map), ...news, values };
}

// One map: token labels, cells, layer numbers, colour bar. Cells are drawn once and recoloured as values arrive.
class Heatmap {
  constructor(method, puts, page) {
    this.method = method;
    this.puts = puts;
    this.page = page;
    this.title = h("h4", {});
    this.bar = h("div", { class: "ie-bar", hidden: true });
    this.svg = s("svg", { role: "grid", tabindex: "0", class: "ie-map" });
    this.empty = h("div", { class: "ie-empty" }, "Press Locate to compute");
    this.element = h(
      "section",
      { class: "ie-panel", "data-method": method },
      h("header", {}, this.title, this.bar),
      this.empty,
      this.svg,
    );
    this.cells = new Map();
    this.key = "";
    this.focus = [0, 0];
    this.svg.addEventListener("keydown", (event) => this.pressed(event));
    this.svg.addEventListener("mouseleave", () => page.tip(null));
  }

  draw(map, fact, layers, chosen) {
    const there = map !== undefined;
    this.title.textContent = there ? map.title : this.page.names[this.method];
    this.svg.style.display = there ? "" : "none";
    this.empty.style.display = there ? "none" : "";
    this.bar.hidden = !there;
    if (!there) {
      this.key = "";
      return;
    }
    const width = Math.max(260, Math.floor(this.element.clientWidth) - 2);
    const key = JSON.stringify([fact.tokens, fact.span, layers, width]);
    if (key !== this.key) this.layout(fact, layers, width);
    this.key = key;
    this.values = map;
    for (const [token, row] of map.values.entries()) {
      for (const [layer, value] of row.entries()) {
        const cell = this.cells.get(`${token},${layer}`);
        cell.setAttribute("fill", colour(map, value));
        cell.classList.toggle("ie-missing", value === null);
        const text = value === null ? "not there yet" : short(value);
        cell.setAttribute("aria-label", `${fact.tokens[token]}, layer ${layer}: ${text}`);
      }
    }
    this.bar.replaceChildren(
      h("span", {}, map.low),
      h("i", { style: `background:linear-gradient(90deg,${map.palette.join(",")})` }),
      h("span", {}, map.high),
      h("em", {}, map.unit),
    );
    this.mark(chosen);
  }

  layout(fact, layers, width) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = "12px sans-serif";
    const longest = Math.max(...fact.tokens.map((token) => pen.measureText(token + "*").width));
    const left = Math.min(Math.ceil(longest) + 12, width * 0.35);
    const w = (width - left - 2) / layers;
    this.size = [left, w];
    const height = fact.tokens.length * ROW + AXIS;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", height);
    this.svg.replaceChildren();
    this.cells.clear();
    fact.tokens.forEach((token, row) => {
      const subject = row >= fact.span[0] && row < fact.span[1];
      const label = s(
        "text",
        { x: left - 5, y: row * ROW + 12.5, "text-anchor": "end", class: subject ? "ie-subject" : "" },
        subject ? `${token}*` : token,
      );
      this.svg.append(label);
      for (let layer = 0; layer < layers; layer++) {
        const cell = s("rect", {
          x: left + layer * w, y: row * ROW, width: Math.max(w - 0.5, 1), height: ROW - 0.5,
          role: "gridcell", "data-token": row, "data-layer": layer, fill: "#e8e8e8",
        });
        cell.addEventListener("click", (event) => this.chose(row, layer, event));
        cell.addEventListener("mousemove", (event) => this.hovered(row, layer, event));
        this.cells.set(`${row},${layer}`, cell);
        this.svg.append(cell);
      }
    });
    const step = [1, 2, 5, 10, 20].find((n) => n * w >= 20) ?? 50;
    for (let layer = 0; layer < layers; layer += step) {
      const x = left + (layer + 0.5) * w;
      this.svg.append(s("text", { x, y: height - AXIS + 12, "text-anchor": "middle", class: "ie-tick" }, layer));
    }
    this.svg.append(
      s("text", { x: left + (layers * w) / 2, y: height - 3, "text-anchor": "middle", class: "ie-tick" }, "layer"),
    );
    this.marks = s("g", { class: "ie-marks" });
    this.cursor = s("rect", { class: "ie-cursor", width: w, height: ROW });
    this.svg.append(this.marks, this.cursor);
    this.place();
  }

  mark(chosen) {
    const [left, w] = this.size;
    this.marks.replaceChildren();
    for (const cell of chosen.filter((each) => each.method === this.method)) {
      const box = { x: left + cell.layer * w, y: cell.token * ROW, width: w, height: ROW };
      this.marks.append(s("rect", { ...box, class: "ie-mark-out" }), s("rect", { ...box, class: "ie-mark-in" }));
    }
  }

  place() {
    const [left, w] = this.size;
    this.cursor.setAttribute("x", left + this.focus[1] * w);
    this.cursor.setAttribute("y", this.focus[0] * ROW);
  }

  pressed(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" || event.key === " ") this.chose(...this.focus, event);
    else if (moves[event.key]) {
      const next = this.focus.map((at, axis) => at + moves[event.key][axis]);
      if (this.cells.has(next.join(","))) this.focus = next;
      this.place();
    } else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has keys of its own
  }

  chose(token, layer, event) {
    this.focus = [token, layer];
    this.place();
    this.page.choose({ method: this.method, token, layer }, event.shiftKey || event.metaKey || event.ctrlKey);
  }

  hovered(token, layer, event) {
    const value = this.values.values[token][layer];
    const fact = this.page.fact();
    this.page.tip(event, [
      `${fact.tokens[token]} (token ${token}), layer ${layer}`,
      value === null ? "not there yet" : `${this.values.unit}: ${short(value)}`,
      `click: put in ${this.puts}`,
    ]);
  }
}
