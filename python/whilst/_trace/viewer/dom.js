// Elements from data. Text is always a text node: nothing that a record says can become markup.

/**
 * element("p", { class: "faint", onclick }, "text", other)
 * `on…` are listeners, `style` an object of properties (set one by one, as the page's policy has no inline styles), the rest attributes.
 */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

function linkButton(text, onclick, attributes = {}) {
  return element("button", { class: "link", type: "button", onclick, ...attributes }, text);
}

/** "file.py:12 in main", and the source line below it. */
function placeElements(place, words = "") {
  if (!place) return [];
  const where = `${place.file}${place.line > 0 ? `:${place.line}` : ""}`;
  return [
    element("div", { class: "where", title: `${place.path}:${place.line}` }, words, where, place.function ? ` in ${place.function}` : ""),
    place.source ? element("code", { class: "source" }, place.source) : null,
  ];
}

/** The colour of a kind as a style, for marks beside words. */
function kindColour(kind) {
  return `var(--kind-${KINDS[kind].name}, var(--kind-future))`;
}
