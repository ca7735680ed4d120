// The frame around the pages: who is signed in, the search box, and which page the address names.

import { caller, forget, hasPath, hasToken, identify, institution, keep, may, Problem } from "./api.js";
import { announce, debounced, h } from "./dom.js";
import { problemBox } from "./parts.js";
import { text } from "./text.js";

const PAGES = [
  { at: /^\/(?:terms\/(\d+))?$/, module: "./home.js", nav: "/" },
  { at: /^\/search(?:\?q=(.*))?$/, module: "./search.js" },
  { at: /^\/courses\/(\d+)$/, module: "./course.js" },
  { at: /^\/students\/(\d+)$/, module: "./student.js" },
  { at: /^\/imports(?:\/(\d+))?$/, module: "./imports.js", nav: "/imports" },
  { at: /^\/feed(?:\?(.*))?$/, module: "./feed.js", nav: "/feed" },
];
const main = document.getElementById("main");
const bar = document.getElementById("bar");
let leaving = new AbortController();
let shownAddress = null;

/** Return the address of the page; a token of one student has the page of that student as its first. */
function address() {
  const to = decodeURI(location.hash.slice(1)) || "/";
  return to === "/" && !may("read") && caller?.student_id ? `/students/${caller.student_id}` : to;
}

const pageOf = to => PAGES.find(each => each.at.test(to)) ?? PAGES[0];

/** Show the page that the address names. */
async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const to = address();
  const page = pageOf(to);
  const values = page.at.exec(to)?.slice(1) ?? [];
  mark(page.nav);
  // The search page stays while its words change.
  const stays = shownAddress?.startsWith("/search") && to.startsWith("/search");
  shownAddress = to;
  if (!to.startsWith("/search")) field.value = "";
  try {
    const { show: showPage } = await import(page.module);
    if (signal.aborted) return;
    const frame = h("div", { class: "content" });
    const title = await showPage({ frame, values, signal, go });
    if (signal.aborted) return;
    main.replaceChildren(frame);
    document.title = title ? `${title} · ${text.console}` : text.console;
    if (!stays) {
      scrollTo(0, 0);
      if (document.activeElement !== field) main.focus({ preventScroll: true });
      announce(title ?? "");
    }
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    if (error instanceof Problem && error.status === 401) return;
    main.replaceChildren(h("div", { class: "content" }, problemBox(error, show)));
  }
}

function go(to) {
  if (address() === to) show();
  else location.hash = to;
}

function mark(nav) {
  for (const each of bar.querySelectorAll("nav a")) {
    if (each.getAttribute("href") === `#${nav}`) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
}

const field = h("input", {
  type: "search", id: "find", placeholder: text.findHint, autocomplete: "off", spellcheck: "false", "aria-label": text.find,
  "aria-keyshortcuts": "/",
  oninput: debounced(150, () => {
    const query = field.value.trim();
    const to = `/search?q=${encodeURIComponent(query)}`;
    if (!query) return;
    if (address().startsWith("/search")) {
      history.replaceState(null, "", `#${to}`);
      show();
    } else go(to);
  }),
  onkeydown: event => {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      main.querySelector(".results a")?.focus();
    }
  },
});

function frame() {
  const items = [
    ["/", text.nav.home, may("read") || may("self")],
    ["/feed", text.nav.feed, may("events")],
    ["/imports", text.nav.imports, may("manage") && hasPath("imports")],
  ];
  const name = caller.name === null ? text.open : caller.name;
  bar.replaceChildren(
    h("a", { class: "brand", href: "#/" }, h("img", { src: "console/icon.svg", alt: "", width: "22", height: "22" }), text.product),
    h("nav", { "aria-label": text.nav.label },
      items.filter(([, , offered]) => offered).map(([to, label]) => h("a", { href: `#${to}` }, label)),
      h("a", { href: "docs" }, text.nav.api)),
    may("read") ? h("form", { class: "find", role: "search", onsubmit: event => {
      event.preventDefault();
      main.querySelector(".results a")?.click();
    } }, field, h("kbd", { "aria-hidden": "true", title: text.findKey }, "/")) : null,
    h("details", { class: "session" },
      h("summary", {}, h("span", { class: "who" }, name)),
      h("div", { class: "menu" },
        caller.institution === null ? null : h("p", {}, caller.institution),
        h("p", { class: "quiet" }, text.scopes),
        h("ul", {}, caller.scopes.map(each => h("li", {}, h("code", {}, each)))),
        hasToken() ? h("button", { type: "button", onclick: signOut }, text.signOut)
          : h("button", { type: "button", onclick: () => signIn(null) }, text.signIn.title))));
}

function signOut() {
  forget();
  location.hash = "/";
  start();
}

/** Ask for a token; `sentence` is that of the API about the last one. */
function signIn(sentence) {
  leaving.abort();
  bar.replaceChildren(h("a", { class: "brand", href: "#/" }, h("img", { src: "console/icon.svg", alt: "", width: "22", height: "22" }), text.product),
    h("nav", { "aria-label": text.nav.label }, h("a", { href: "docs" }, text.nav.api)));
  document.title = `${text.signIn.title} · ${text.console}`;
  const token = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false" });
  const name = h("input", { type: "text", id: "institution", autocomplete: "off", spellcheck: "false", value: institution(), "aria-describedby": "institution-hint" });
  const told = h("div", {}, sentence ? h("div", { class: "problem", role: "alert" }, h("p", {}, sentence)) : null);
  main.replaceChildren(h("div", { class: "content" }, h("form", {
    class: "card sign-in",
    onsubmit: event => {
      event.preventDefault();
      keep(token.value.trim(), name.value.trim());
      start();
    },
  },
  h("h1", {}, text.signIn.title),
  h("p", { class: "lead" }, text.signIn.lead),
  told,
  h("label", { for: "token" }, text.signIn.token), token,
  h("details", { open: institution() !== "" }, h("summary", {}, text.signIn.several),
    h("label", { for: "institution" }, text.signIn.institution), name,
    h("p", { class: "quiet", id: "institution-hint" }, text.signIn.institutionHint)),
  h("button", { type: "submit", class: "primary" }, text.signIn.submit))));
  token.focus();
}

/** Find out who calls, then show the page. */
async function start() {
  try {
    await identify();
  } catch (error) {
    if (error instanceof Problem && [400, 401, 404].includes(error.status)) {
      const tried = hasToken() || institution() !== "";
      forget();
      return signIn(tried ? error.detail : null);
    }
    main.replaceChildren(h("div", { class: "content" }, problemBox(error, start)));
    return;
  }
  frame();
  show();
}

addEventListener("hashchange", () => { if (caller !== null) show(); });
addEventListener("signed-out", event => { if (caller !== null) { forget(); signIn(event.detail); } });
addEventListener("click", event => {
  const open = document.querySelector(".session[open]");
  if (open && !open.contains(event.target)) open.open = false;
});
addEventListener("keydown", event => {
  const typing = event.target.closest?.("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    field.focus();
    field.select();
  }
  if (event.key === "Escape") {
    const open = document.querySelector(".session[open]");
    if (open) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  }
  const results = event.target.closest?.(".results");
  if (results && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    const links = [...results.querySelectorAll("a")];
    const to = links.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1);
    if (to < 0) field.focus();
    else links[Math.min(to, links.length - 1)].focus();
  }
});
// The page arrives while the service is asked who calls; what fails here fails again, and is shown, in `show`.
import(pageOf(address()).module).catch(() => {});
start();
