// The page of interp.explore: shows the widget's traits, sends messages {do: ACTION, ...}. It computes no number.
// script.py joins elements.js, heatmap.js and this file into one module. Every part of the page takes the link to the
// widget, and returns its elements and what draws the traits on them.

function linkTo(model) {
  const get = (name) => model.get(name);
  return { get, send: (action, more = {}) => model.send({ do: action, ...more }), setup: get("setup") };
}

// What is explored: a prompt, its subject and answer, typed or from the built-in facts; and its tokens.
function factPart({ get, send, setup }) {
  const choose = () => send("choose", { prompt: prompt.value, subject: subject.value, target: target.value });
  const prompt = typing(textInput("prompt", { class: "ie-prompt" }), choose);
  const subject = typing(textInput("subject"), choose);
  const target = typing(textInput("answer", { placeholder: "the model's own" }), choose);
  const listed = `ie-facts-${Math.random().toString(36).slice(2)}`;
  const search = typing(
    h("input", { type: "search", list: listed, "aria-label": "built-in fact", placeholder: "search" }),
  );
  const options = h("datalist", { id: listed }, ...setup.facts.map((text) => h("option", { value: text })));
  search.addEventListener("change", () => {
    const index = setup.facts.indexOf(search.value);
    if (index < 0) return;
    send("choose", { index });
    search.value = "";
  });
  const tokens = h("div", { class: "ie-tokens", "aria-label": "tokens" });
  const line = h(
    "div", { class: "ie-line" },
    field("Prompt", prompt), field("Subject", subject, "as it stands in the prompt"), field("Answer", target),
    field("Built-in fact", search), options,
  );
  const chooseTyped = () => {
    const fact = get("fact_shown");
    if (prompt.value !== fact.prompt || subject.value !== fact.subject || target.value !== fact.target) choose();
  };
  const draw = () => {
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
  return { line, tokens, chooseTyped, draw };
}

// What is computed, and how; started and stopped here.
function controlsPart({ get, send, setup }, beforeLocating) {
  const methods = setup.maps.map(({ name }) => name);
  const checks = Object.fromEntries(
    methods.map((method) => [method, h("input", { type: "checkbox", checked: true, "data-map": method })]),
  );
  const locate = h("button", { class: "ie-main", onclick: () => {
    beforeLocating();
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
  const most = Math.max(setup.n_layers, get("controls").window);
  const windows = slider(
    "window", "blocks whose MLP or attention outputs are restored together",
    { min: 1, max: most, step: 1, "aria-label": "window" }, (value) => `${value}`, changed("window"),
  );
  const line = h(
    "div", { class: "ie-line ie-controls" },
    locate, stop,
    ...setup.maps.map(({ name, title }) => h("label", { class: "ie-check" }, checks[name], title)),
    noise.element, samples.element, windows.element,
  );
  const progress = h("progress", { max: 1, value: 0, "aria-label": "progress" });
  const doing = h("span", { class: "ie-doing", role: "status" });
  const progressLine = h("div", { class: "ie-line ie-tight ie-progress" }, progress, doing);
  const draw = () => {
    const controls = get("controls");
    noise.set(controls.deviations, controls.noise);
    samples.set(controls.samples);
    windows.set(controls.window);
  };
  const drawStatus = (status) => {
    progress.value = status.fraction;
    doing.textContent = status.busy ? `${status.doing} …` : "";
    stop.disabled = !status.busy;
  };
  return { line, progressLine, draw, drawStatus };
}

// The maps, which grow while they are computed; a click puts a state in, and tells its layer.
function mapsPart({ get, send, setup }, layerChosen) {
  const tip = h("div", { class: "ie-tip", hidden: true });
  const page = {
    names: Object.fromEntries(setup.maps.map(({ name, title }) => [name, title[0].toUpperCase() + title.slice(1)])),
    fact: () => get("fact_shown"),
    tip(event, lines) {
      tip.hidden = event === null;
      if (event === null) return;
      tip.replaceChildren(...lines.map((line, i) => h(i === 0 ? "b" : "div", {}, line)));
      const box = tip.parentElement.getBoundingClientRect();
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
      layerChosen(cell.layer);
    },
  };
  const heatmaps = setup.maps.map(({ name, puts }) => new Heatmap(name, puts, page));
  let growing = {};
  const known = (method) => growing[method] ?? get("maps")[method];
  const drawMap = (map) =>
    map.draw(known(map.method), get("fact_shown"), setup.n_layers, get("runs").cells ?? []);
  const draw = () => heatmaps.forEach(drawMap);
  const drawAnew = () => {
    growing = {};
    draw();
  };
  const drawRows = () => {
    const news = get("rows");
    const map = heatmaps.find((each) => each.method === news.method);
    if (map === undefined || news.n_tokens > get("fact_shown").tokens.length) return;
    growing[news.method] = grown(known(news.method), news, setup.n_layers);
    if (growing[news.method].palette) drawMap(map);
  };
  const mark = (cells) => {
    for (const map of heatmaps) if (map.key) map.mark(cells);
  };
  const element = h("div", { class: "ie-maps" }, ...heatmaps.map((map) => map.element));
  return { element, tip, draw, drawAnew, drawRows, mark };
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

// Another prompt that states are taken from, in place of the clean run.
function otherPart({ send }) {
  const use = () => send("other", { prompt: prompt.value, subject: subject.value });
  const prompt = typing(textInput("other prompt", { class: "ie-prompt" }), use);
  const subject = typing(textInput("other subject"), use);
  const useClean = h("button", { onclick: () => send("other", { prompt: "", subject: "" }) }, "Use the clean run");
  const element = h(
    "details", { class: "ie-other" },
    h("summary", {}, "Take states from another prompt"),
    h(
      "div", { class: "ie-line" },
      field("Other prompt", prompt), field("Its subject", subject),
      h("button", { onclick: use }, "Use its states"), useClean,
    ),
  );
  const draw = (other) => {
    useClean.disabled = !other;
    if (!other) return;
    element.open = true;
    prompt.value = other.prompt;
    subject.value = other.subject;
  };
  return { element, draw };
}

// The three runs side by side, and the cells that were put in.
function runsPart({ get, send }) {
  const element = h("div", { class: "ie-runs" });
  const chips = h("div", { class: "ie-chips" });
  const draw = () => {
    const data = get("runs");
    const [source, base, patched] = data.names;
    element.replaceChildren(
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
  };
  return { element, chips, draw };
}

function editTable(rows) {
  const titles = ["asked for", "prompt", "expected", "before", "after", "P before", "P after"];
  const columns = ["metric", "prompt", "expected", "before", "after", "p_before", "p_after"];
  return h(
    "table", {},
    h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", {}, title)))),
    h("tbody", {}, ...rows.map((row) =>
      h("tr", { class: row.changed ? "ie-changed" : "" },
        ...columns.map((name) => h("td", { "data-column": name }, row[name]))))),
  );
}

// An edit, and what it changed.
function editPart({ get, send, setup }) {
  const wanted = typing(textInput("new target", { placeholder: "Rome" }));
  const method = h(
    "select", { "aria-label": "editor" }, ...setup.editors.map(({ name, title }) => h("option", { value: name }, title)),
  );
  const layer = typing(h("input", {
    type: "number", min: 0, max: setup.n_layers - 1, "aria-label": "layer", value: setup.editors[0].layer,
  }));
  method.addEventListener("change", () => {
    layer.value = setup.editors.find(({ name }) => name === method.value).layer;
  });
  const edit = h("button", { class: "ie-main", onclick: () =>
    send("edit", { target: wanted.value, method: method.value, layer: Number(layer.value) }) }, "Edit");
  const undo = h("button", { onclick: () => send("undo") }, "Undo");
  const keep = h("button", { onclick: () => send("export", { format: "patch" }) }, "Save the patch");
  const result = h("div", { class: "ie-edit" });
  const badge = h("span", { class: "ie-badge", hidden: true });
  const element = h(
    "fieldset", {}, h("legend", {}, "Edit"),
    h("div", { class: "ie-line" },
      field("New answer", wanted), field("Editor", method), field("Layer", layer, "the last clicked cell's"),
      edit, undo, keep),
    result,
  );
  const draw = () => {
    const data = get("edited");
    const there = Boolean(data.rows);
    undo.disabled = keep.disabled = !there;
    badge.hidden = !there;
    result.replaceChildren();
    if (!there) return;
    badge.textContent = `edited: ${data.method} at ${data.layers} → ${data.target}`;
    const ended = data.took === false ? "did not take" : data.converged ? "converged" : "did not converge";
    result.append(
      h("p", { class: "ie-quiet" },
        `${data.method} at ${data.layers}: “${data.prompt}” → “${data.target}”; `,
        ended, `; norm of what is added: ${data.norm}`),
      editTable(data.rows),
    );
  };
  const drawStatus = (status) => {
    edit.disabled = status.busy && status.doing.startsWith("editing");
  };
  const setLayer = (number) => {
    layer.value = number;
  };
  return { element, badge, draw, drawStatus, setLayer };
}

function exportsLine({ send, setup }) {
  const buttons = setup.formats.filter((format) => format !== "patch").map((format) =>
    h("button", { onclick: () => send("export", { format }), "data-format": format }, format.toUpperCase()));
  return h("div", { class: "ie-line ie-tight" }, h("span", { class: "ie-quiet" }, "Export the maps:"), ...buttons);
}

const TYPES = { pdf: "application/pdf", svg: "image/svg+xml", png: "image/png", html: "text/html", csv: "text/csv" };

function received(content, buffers) {
  const type = TYPES[content.export] ?? "application/octet-stream";
  if (content.export) save(`${content.name}.${content.export}`, buffers[0], type);
}

// Draw traits now and whenever they change; what is returned ends it.
function watch(model, drawn, onlyLater) {
  for (const [name, draw] of Object.entries(drawn)) {
    model.on(`change:${name}`, draw);
    draw();
  }
  for (const [event, draw] of Object.entries(onlyLater)) model.on(event, draw);
  return () => {
    for (const [name, draw] of Object.entries(drawn)) model.off(`change:${name}`, draw);
    for (const [event, draw] of Object.entries(onlyLater)) model.off(event, draw);
  };
}

function render({ model, el }) {
  const link = linkTo(model);
  const { get, send } = link;
  const fact = factPart(link);
  const controls = controlsPart(link, fact.chooseTyped);
  const edit = editPart(link);
  const maps = mapsPart(link, edit.setLayer);
  const runs = runsPart(link);
  const other = otherPart(link);
  const message = h("div", { class: "ie-message", role: "alert" });
  const root = h(
    "div", { class: "ie-root" },
    fact.line,
    h("div", { class: "ie-line ie-tight" }, fact.tokens, edit.badge),
    controls.line,
    controls.progressLine,
    message,
    maps.element,
    h("div", { class: "ie-hint" },
      "Click a cell to put that state in; shift-click adds cells. Arrow keys and Enter work as well."),
    runs.chips, runs.element, other.element, edit.element,
    exportsLine(link),
    maps.tip,
  );
  el.append(root);

  const drawFact = () => {
    fact.draw();
    maps.drawAnew();
  };
  const drawRuns = () => {
    const data = get("runs");
    if (!data.names) return;
    runs.draw();
    other.draw(data.other);
    maps.mark(data.cells);
  };
  const drawStatus = () => {
    const status = get("status");
    controls.drawStatus(status);
    edit.drawStatus(status);
    root.classList.toggle("ie-busy", status.busy);
  };
  const drawMessage = () => {
    message.textContent = get("message");
    message.hidden = !get("message");
  };
  const unwatch = watch(
    model,
    {
      fact_shown: drawFact, maps: maps.drawAnew, runs: drawRuns, controls: controls.draw, status: drawStatus,
      edited: edit.draw, message: drawMessage,
    },
    { "change:rows": maps.drawRows, "msg:custom": received },
  );
  const resized = new ResizeObserver(maps.draw);
  resized.observe(root);
  send("view", { open: true });
  return () => {
    resized.disconnect();
    unwatch();
    send("view", { open: false });
  };
}

export default { render };
