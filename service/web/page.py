"""The API page, which displays the API document and sends its calls: RapiDoc, served from the files of a package."""

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from aiohttp import web

from service.web.endpoint import Call, Endpoint, endpoint
from service.web.openapi import About, summary_of, tag_of

PAGE = web.AppKey("page", bytes)
SCRIPT: Final = (files("openapi_ui_bundles.rapidoc") / "vendor" / "rapidoc-min.js").read_bytes()
BEHAVIOUR: Final = """
customElements.whenDefined("rapi-doc").then(async () => {
  const spec = await (await fetch("openapi.json")).json();
  spec.security = [];
  document.querySelector("rapi-doc").loadSpec(spec);
});
const menu = document.querySelector(".menu");
const search = menu.querySelector("input");
menu.addEventListener("click", event => { if (event.target.closest("a")) menu.open = false; });
search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  for (const link of menu.querySelectorAll("a")) link.hidden = !link.textContent.toLowerCase().includes(wanted);
});
"""
"""Hide the authentication, which is not in use yet, and operate the menu of small screens."""

POLICY: Final = (
    f"default-src 'none'; script-src 'self' 'sha256-{b64encode(sha256(BEHAVIOUR.encode()).digest()).decode()}'; "
    "connect-src 'self'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Prevent the script from loading anything from another origin."""

TEMPLATE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title: API</title>
<link rel="icon" href="data:,">
<script src="docs/rapidoc-min.js" defer></script>
<style>
  body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #2b3440 }
  .about { max-width: 780px; padding: 28px 80px 20px }
  .about h1 { margin: 0 0 8px; font-size: 30px; font-weight: 600 }
  .about small { font-size: 15px; font-weight: 400; color: #5b6876 }
  .about p { margin: 8px 0 }
  .about a { color: #1f5f99 }
  .about code { font: 13px ui-monospace, monospace; background: #eef1f5; padding: 1px 4px; border-radius: 3px }
  .menu { display: none }
  rapi-doc::part(section-tag) { padding-top: 16px }
  rapi-doc::part(label-tag-title) { font-size: 24px; text-transform: capitalize }
  @media (max-width: 768px) {
    rapi-doc::part(section-main-content) { padding: 0 16px }
    .about { padding: 24px 4px 16px }
    rapi-doc::part(section-operation), rapi-doc::part(section-tag) { scroll-margin-top: 48px }
    .menu { display: block; position: sticky; top: 0; z-index: 1; background: #f4f6f9; border-bottom: 1px solid #d8dee6 }
    .menu summary { padding: 12px 20px; font-weight: 600; cursor: pointer }
    .menu nav { max-height: calc(100vh - 56px); overflow-y: auto; padding: 0 20px 16px }
    .menu input { box-sizing: border-box; width: 100%; padding: 8px; font: inherit; border: 1px solid #b9c3cf; border-radius: 4px }
    .menu h2 { margin: 16px 0 4px; font-size: 15px; text-transform: capitalize }
    .menu a { display: block; padding: 8px 0; color: #1f5f99; text-decoration: none }
    .menu a[hidden] { display: none }
    .menu small { display: block; color: #5b6876; overflow-wrap: anywhere }
  }
</style>
</head>
<body>
<details class="menu">
<summary>Menu</summary>
<nav>
<input type="search" placeholder="Search" aria-label="Search the menu">
$menu</nav>
</details>
<rapi-doc render-style="read" theme="light" bg-color="#ffffff" text-color="#2b3440"
  primary-color="#1f5f99" nav-bg-color="#f4f6f9" nav-text-color="#33404d" nav-hover-bg-color="#e6ebf1"
  nav-hover-text-color="#1f5f99" nav-accent-color="#1f5f99" load-fonts="false" regular-font="system-ui, sans-serif"
  mono-font="ui-monospace, monospace" show-header="false" show-info="false" allow-search="true"
  allow-advanced-search="false" default-schema-tab="example" sort-endpoints-by="none" allow-server-selection="false" allow-authentication="false" schema-style="table"
  schema-description-expanded="true" show-method-in-nav-bar="as-colored-text" use-path-in-nav-bar="true"
  default-api-server="/">
<div class="about">
<h1>$title <small>$version</small></h1>
<p>$description</p>
<p><a href="openapi.json">openapi.json</a></p>
</div>
</rapi-doc>
<script>$script</script>
</body>
</html>
""")


def page(about: About, endpoints: Iterable[Endpoint]) -> bytes:
    """Return the API page as HTML."""
    return TEMPLATE.substitute(
        menu=_menu(about.tags, list(endpoints)),
        script=BEHAVIOUR,
        title=escape(about.title),
        version=escape(about.version),
        description=re.sub("`(.+?)`", r"<code>\1</code>", escape(about.description)),
    ).encode()


def _menu(tags: Iterable[tuple[str, str]], endpoints: Sequence[Endpoint]) -> str:
    """Return the HTML of the menu: a heading for each tag, and a link to each operation on the page."""
    lines = []
    for tag, _ in tags:
        lines.append(f"<h2>{escape(tag)}</h2>")
        for item in endpoints:
            if tag_of(item) == tag:
                anchor = re.sub(r"[{}]", "-", f"{item.method.lower()}-{item.path}")
                call = f"{item.method} {item.path}"
                lines.append(f'<a href="#{escape(anchor)}">{escape(summary_of(item))}<small>{escape(call)}</small></a>')
    return "".join(f"{line}\n" for line in lines)


@endpoint("GET", "/docs", scope="public", needs_database=False)
async def show_page(call: Call) -> web.Response:
    """Show the API page."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=call[PAGE], content_type="text/html", charset="utf-8", headers=headers)


@endpoint("GET", "/docs/rapidoc-min.js", scope="public", needs_database=False)
async def read_script(_call: Call) -> web.Response:
    """Read the script of the API page."""
    headers = {"Cache-Control": "max-age=3600"}
    return web.Response(body=SCRIPT, content_type="text/javascript", charset="utf-8", headers=headers)
