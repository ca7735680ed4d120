// Elements, made without any HTML in strings: text stays text.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element; `on…` attributes are listeners, and attributes that are null or false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return an SVG element. */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, its] of Object.entries(value)) element.style.setProperty(key, its);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return text that only screen readers present. */
export const unseen = text => h("span", { class: "hidden-text" }, text);

/** Say something to screen readers. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Return a function that runs once nobody has called it for some milliseconds. */
export function debounced(milliseconds, run) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), milliseconds);
  };
}

/** Run something at intervals until the signal aborts, never twice at a time, and not while the page is hidden. */
export function repeat(milliseconds, signal, run) {
  let timer = 0;
  const again = async () => {
    if (!document.hidden) await run();
    if (!signal.aborted) timer = setTimeout(again, milliseconds);
  };
  timer = setTimeout(again, milliseconds);
  signal.addEventListener("abort", () => clearTimeout(timer));
}
