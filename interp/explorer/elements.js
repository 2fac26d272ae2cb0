// Elements of a page, and inputs that the notebook does not hear.

const SVG = "http://www.w3.org/2000/svg";

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

function textInput(label, attributes = {}) {
  return h("input", { type: "text", "aria-label": label, spellcheck: "false", ...attributes });
}

// The notebook has keys of its own: it must not hear what is typed.
function typing(input, entered = () => {}) {
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") entered();
  });
  return input;
}

function save(name, data, type) {
  const link = h("a", { href: URL.createObjectURL(new Blob([data], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
