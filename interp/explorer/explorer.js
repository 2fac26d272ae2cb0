// The page of interp.explore: shows the widget's traits, sends messages {do: ACTION, ...}. It computes no number.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 17; // height of a heatmap's row in pixels
const AXIS = 26; // below its rows

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

function s(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

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

const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.001 ? value.toExponential(1) : value.toFixed(3));

function field(label, input, hint) {
  return h("label", { class: "ie-field", title: hint }, h("span", {}, label), input);
}

function slider(label, hint, attributes, show, changed) {
  const output = h("output", {});
  const input = h("input", { type: "range", ...attributes });
  const set = (value, detail) => {
    if (document.activeElement !== input || !input.matches(":active")) input.value = value;
    output.textContent = show(Number(input.value), detail);
  };
  input.addEventListener("input", () => (output.textContent = show(Number(input.value))));
  input.addEventListener("change", () => changed(Number(input.value)));
  return { element: h("label", { class: "ie-slider", title: hint }, h("span", {}, label, " ", output), input), set };
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

function readout(name, run, data, extra) {
  const rows = (run?.top ?? []).map((entry) =>
    h(
      "div",
      { class: entry.id === data.answer_id ? "ie-row ie-answer" : "ie-row" },
      h("span", { class: "ie-token" }, entry.token),
      h("i", { style: `width:${(100 * entry.probability).toFixed(2)}%` }),
      h("b", {}, entry.text),
    ),
  );
  return h(
    "div",
    { class: "ie-run", "data-run": name },
    h("h4", {}, name),
    run
      ? h("p", { class: "ie-p", "data-probability": run.probability }, `P(${data.answer}) = `, h("b", {}, run.text))
      : h("p", { class: "ie-p ie-quiet" }, extra),
    ...rows,
  );
}

function save(name, data, type) {
  const link = h("a", { href: URL.createObjectURL(new Blob([data], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const send = (action, more = {}) => model.send({ do: action, ...more });
  const setup = get("setup");
  const methods = setup.maps.map(({ name }) => name);
  const labels = Object.fromEntries(setup.maps.map(({ name, title }) => [name, title]));
  const names = Object.fromEntries(setup.maps.map(({ name, title }) => [name, title[0].toUpperCase() + title.slice(1)]));

  // the fact
  const listed = `ie-facts-${Math.random().toString(36).slice(2)}`;
  const prompt = h("input", { type: "text", "aria-label": "prompt", class: "ie-prompt", spellcheck: "false" });
  const subject = h("input", { type: "text", "aria-label": "subject", spellcheck: "false" });
  const target = h("input", { type: "text", "aria-label": "answer", placeholder: "the model's own", spellcheck: "false" });
  const search = h("input", { type: "search", list: listed, "aria-label": "built-in fact", placeholder: "search" });
  const options = h("datalist", { id: listed }, ...setup.facts.map((text) => h("option", { value: text })));
  const choose = () => send("choose", { prompt: prompt.value, subject: subject.value, target: target.value });
  for (const input of [prompt, subject, target]) {
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") choose();
    });
  }
  search.addEventListener("keydown", (event) => event.stopPropagation());
  search.addEventListener("change", () => {
    const index = setup.facts.indexOf(search.value);
    if (index < 0) return;
    send("choose", { index });
    search.value = "";
  });
  const typed = () => {
    const fact = get("fact_shown");
    return prompt.value !== fact.prompt || subject.value !== fact.subject || target.value !== fact.target;
  };
  const tokens = h("div", { class: "ie-tokens", "aria-label": "tokens" });

  // controls
  const checks = Object.fromEntries(
    methods.map((method) => [method, h("input", { type: "checkbox", checked: true, "data-map": method })]),
  );
  const locate = h("button", { class: "ie-main", onclick: () => {
    if (typed()) choose();
    send("run", { methods: methods.filter((method) => checks[method].checked) });
  } }, "Locate");
  const stop = h("button", { onclick: () => send("stop") }, "Stop");
  const changed = (name) => (value) => send("controls", { changes: { [name]: value } });
  const noise = slider(
    "noise", "standard deviation of the noise, in those of the subjects' embeddings",
    { min: 0.5, max: 6, step: 0.5, "aria-label": "noise" },
    (value, level) => `${value} σ${level === undefined ? "" : ` = ${short(level)}`}`, changed("deviations"),
  );
  const samples = slider(
    "samples", "noise draws", { min: 1, max: 30, step: 1, "aria-label": "samples" }, (value) => `${value}`,
    changed("samples"),
  );
  const windows = slider(
    "window", "blocks whose MLP or attention outputs are restored together",
    { min: 1, max: Math.max(setup.n_layers, get("controls").window), step: 1, "aria-label": "window" }, (value) => `${value}`, changed("window"),
  );
  const progress = h("progress", { max: 1, value: 0, "aria-label": "progress" });
  const doing = h("span", { class: "ie-doing", role: "status" });
  const message = h("div", { class: "ie-message", role: "alert" });

  // maps, runs, cells
  const page = {
    names,
    fact: () => get("fact_shown"),
    tip(event, lines) {
      tip.hidden = event === null;
      if (event === null) return;
      tip.replaceChildren(...lines.map((line, i) => h(i === 0 ? "b" : "div", {}, line)));
      const box = root.getBoundingClientRect();
      const x = event.clientX - box.left + 14;
      tip.style.left = `${Math.min(x, box.width - tip.offsetWidth - 8)}px`;
      tip.style.top = `${event.clientY - box.top + 16}px`;
    },
    choose(cell, more) {
      const now = (get("runs").cells ?? []).map(({ method, token, layer }) => ({ method, token, layer }));
      const same = (other) => ["method", "token", "layer"].every((name) => other[name] === cell[name]);
      let cells = [cell];
      if (more) cells = now.some(same) ? now.filter((other) => !same(other)) : [...now, cell];
      send("select", { cells });
      layer.value = cell.layer;
    },
  };
  const heatmaps = setup.maps.map(({ name, puts }) => new Heatmap(name, puts, page));
  const runs = h("div", { class: "ie-runs" });
  const chips = h("div", { class: "ie-chips" });
  const tip = h("div", { class: "ie-tip", hidden: true });
  const otherPrompt = h("input", { type: "text", "aria-label": "other prompt", class: "ie-prompt", spellcheck: "false" });
  const otherSubject = h("input", { type: "text", "aria-label": "other subject", spellcheck: "false" });
  for (const input of [otherPrompt, otherSubject]) {
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") useOther();
    });
  }
  const useOther = () => send("other", { prompt: otherPrompt.value, subject: otherSubject.value });
  const useClean = h("button", { onclick: () => send("other", { prompt: "", subject: "" }) }, "Use the clean run");
  const other = h(
    "details", { class: "ie-other" },
    h("summary", {}, "Take states from another prompt"),
    h(
      "div", { class: "ie-line" },
      field("Other prompt", otherPrompt), field("Its subject", otherSubject),
      h("button", { onclick: useOther }, "Use its states"), useClean,
    ),
  );

  // edit
  const wanted = h("input", { type: "text", "aria-label": "new target", placeholder: "Rome", spellcheck: "false" });
  const method = h(
    "select", { "aria-label": "editor" }, ...setup.editors.map(({ name, title }) => h("option", { value: name }, title)),
  );
  const layer = h("input", { type: "number", min: 0, max: setup.n_layers - 1, "aria-label": "layer", value: setup.editors[0].layer });
  method.addEventListener("change", () => {
    layer.value = setup.editors.find(({ name }) => name === method.value).layer;
  });
  wanted.addEventListener("keydown", (event) => event.stopPropagation());
  layer.addEventListener("keydown", (event) => event.stopPropagation());
  const edit = h("button", { class: "ie-main", onclick: () =>
    send("edit", { target: wanted.value, method: method.value, layer: Number(layer.value) }) }, "Edit");
  const undo = h("button", { onclick: () => send("undo") }, "Undo");
  const keep = h("button", { onclick: () => send("export", { format: "patch" }) }, "Save the patch");
  const result = h("div", { class: "ie-edit" });
  const badge = h("span", { class: "ie-badge", hidden: true });

  const exports = setup.formats.filter((format) => format !== "patch").map((format) =>
    h("button", { onclick: () => send("export", { format }), "data-format": format }, format.toUpperCase()));

  const root = h(
    "div", { class: "ie-root" },
    h(
      "div", { class: "ie-line" },
      field("Prompt", prompt), field("Subject", subject, "as it stands in the prompt"), field("Answer", target),
      field("Built-in fact", search), options,
    ),
    h("div", { class: "ie-line ie-tight" }, tokens, badge),
    h(
      "div", { class: "ie-line ie-controls" },
      locate, stop,
      ...methods.map((name) => h("label", { class: "ie-check" }, checks[name], labels[name])),
      noise.element, samples.element, windows.element,
    ),
    h("div", { class: "ie-line ie-tight ie-progress" }, progress, doing),
    message,
    h("div", { class: "ie-maps" }, ...heatmaps.map((map) => map.element)),
    h("div", { class: "ie-hint" },
      "Click a cell to put that state in; shift-click adds cells. Arrow keys and Enter work as well."),
    chips, runs, other,
    h(
      "fieldset", {}, h("legend", {}, "Edit"),
      h("div", { class: "ie-line" },
        field("New answer", wanted), field("Editor", method), field("Layer", layer, "the last clicked cell's"),
        edit, undo, keep),
      result,
    ),
    h("div", { class: "ie-line ie-tight" }, h("span", { class: "ie-quiet" }, "Export the maps:"), ...exports),
    tip,
  );
  el.append(root);

  // from the state to the page
  let growing = {};
  const drawMap = (map) =>
    map.draw(growing[map.method] ?? get("maps")[map.method], get("fact_shown"), setup.n_layers, get("runs").cells ?? []);
  const drawMaps = () => heatmaps.forEach(drawMap);
  const drawRows = () => {
    const news = get("rows");
    const map = heatmaps.find((each) => each.method === news.method);
    if (map === undefined || news.n_tokens > get("fact_shown").tokens.length) return;
    growing[news.method] = grown(growing[news.method] ?? get("maps")[news.method], news, setup.n_layers);
    if (growing[news.method].palette) drawMap(map);
  };
  const drawFact = () => {
    const fact = get("fact_shown");
    prompt.value = fact.prompt;
    subject.value = fact.subject;
    target.value = fact.target;
    const answer = fact.known ? `→ ${fact.answer}` : `→ ${fact.answer} (not the model's top answer)`;
    tokens.replaceChildren(
      ...fact.tokens.map((token, i) =>
        h("span", { class: i >= fact.span[0] && i < fact.span[1] ? "ie-chip ie-subject" : "ie-chip" }, token)),
      h("span", { class: "ie-quiet" }, answer),
    );
  };
  const drawRuns = () => {
    const data = get("runs");
    if (!data.names) return;
    const [source, base, patched] = data.names;
    runs.replaceChildren(
      readout(source, data.source, data),
      readout(base, data.base, data),
      readout(patched, data.patched, data, "no cell is chosen"),
    );
    chips.replaceChildren(
      ...data.cells.map((cell, i) =>
        h("span", { class: "ie-chip" },
          cell.text + (cell.more ? ` · ${cell.more}` : ""),
          h("button", { class: "ie-x", "aria-label": "remove", onclick: () =>
            send("select", { cells: data.cells.filter((_, j) => j !== i) }) }, "×"))),
    );
    if (data.cells.length > 1) chips.append(h("button", { onclick: () => send("select", { cells: [] }) }, "Clear"));
    useClean.disabled = !data.other;
    if (data.other) {
      other.open = true;
      otherPrompt.value = data.other.prompt;
      otherSubject.value = data.other.subject;
    }
    for (const map of heatmaps) if (map.key) map.mark(data.cells);
  };
  const drawControls = () => {
    const controls = get("controls");
    noise.set(controls.deviations, controls.noise);
    samples.set(controls.samples);
    windows.set(controls.window);
  };
  const drawStatus = () => {
    const status = get("status");
    progress.value = status.fraction;
    doing.textContent = status.busy ? `${status.doing} …` : "";
    root.classList.toggle("ie-busy", status.busy);
    stop.disabled = !status.busy;
    edit.disabled = status.busy && status.doing.startsWith("editing");
  };
  const drawEdit = () => {
    const data = get("edited");
    const there = Boolean(data.rows);
    undo.disabled = keep.disabled = !there;
    badge.hidden = !there;
    result.replaceChildren();
    if (!there) return;
    badge.textContent = `edited: ${data.method} at ${data.layers} → ${data.target}`;
    result.append(
      h("p", { class: "ie-quiet" },
        `${data.method} at ${data.layers}: “${data.prompt}” → “${data.target}”; `,
        data.took === false ? "did not take" : data.converged ? "converged" : "did not converge", `; norm of what is added: ${data.norm}`),
      h("table", {},
        h("thead", {}, h("tr", {}, ...["asked for", "prompt", "expected", "before", "after", "P before", "P after"].map(
          (name) => h("th", {}, name)))),
        h("tbody", {}, ...data.rows.map((row) =>
          h("tr", { class: row.changed ? "ie-changed" : "" },
            ...["metric", "prompt", "expected", "before", "after", "p_before", "p_after"].map(
              (name) => h("td", { "data-column": name }, row[name])))))),
    );
  };
  const drawMessage = () => {
    message.textContent = get("message");
    message.hidden = !get("message");
  };
  const types = { pdf: "application/pdf", svg: "image/svg+xml", png: "image/png", html: "text/html", csv: "text/csv" };
  const received = (content, buffers) => {
    if (content.export) save(`${content.name}.${content.export}`, buffers[0], types[content.export] ?? "application/octet-stream");
  };

  const watched = {
    fact_shown: () => (growing = {}, drawFact(), drawMaps()), maps: () => (growing = {}, drawMaps()), runs: drawRuns, controls: drawControls,
    status: drawStatus, edited: drawEdit, message: drawMessage,
  };
  for (const [name, draw] of Object.entries(watched)) {
    model.on(`change:${name}`, draw);
    draw();
  }
  model.on("change:rows", drawRows);
  model.on("msg:custom", received);
  const resized = new ResizeObserver(drawMaps);
  resized.observe(root);
  send("view", { open: true });
  return () => {
    resized.disconnect();
    for (const [name, draw] of Object.entries(watched)) model.off(`change:${name}`, draw);
    model.off("change:rows", drawRows);
    model.off("msg:custom", received);
    send("view", { open: false });
  };
}

export default { render };
