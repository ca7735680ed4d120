"""The page that shows the API document and tries its calls: RapiDoc, served from a package's files, offline too."""

import re
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from aiohttp import web

from service.web.endpoint import Call, endpoint
from service.web.openapi import About

PAGE = web.AppKey("page", bytes)
SCRIPT: Final = (files("openapi_ui_bundles.rapidoc") / "vendor" / "rapidoc-min.js").read_bytes()
POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Keeps the script from loading anything from another origin."""

TEMPLATE: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title: API</title>
<link rel="icon" href="data:,">
<script src="/docs/rapidoc-min.js" defer></script>
<style>
  body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: #2b3440 }
  .about { max-width: 780px; padding: 28px 80px 20px }
  .about h1 { margin: 0 0 8px; font-size: 30px; font-weight: 600 }
  .about small { font-size: 15px; font-weight: 400; color: #5b6876 }
  .about p { margin: 8px 0 }
  .about a { color: #1f5f99 }
  .about code { font: 13px ui-monospace, monospace; background: #eef1f5; padding: 1px 4px; border-radius: 3px }
  rapi-doc::part(section-tag) { padding-top: 16px }
  rapi-doc::part(label-tag-title) { font-size: 24px; text-transform: capitalize }
  @media (max-width: 768px) {
    rapi-doc::part(section-main-content) { padding: 0 16px }
    .about { padding: 24px 4px 16px }
  }
</style>
</head>
<body>
<rapi-doc spec-url="/openapi.json" render-style="read" theme="light" bg-color="#ffffff" text-color="#2b3440"
  primary-color="#1f5f99" nav-bg-color="#f4f6f9" nav-text-color="#33404d" nav-hover-bg-color="#e6ebf1"
  nav-hover-text-color="#1f5f99" nav-accent-color="#1f5f99" load-fonts="false" regular-font="system-ui, sans-serif"
  mono-font="ui-monospace, monospace" show-header="false" show-info="false" allow-search="false"
  allow-advanced-search="false" allow-server-selection="false" allow-authentication="false" schema-style="table"
  schema-description-expanded="true" show-method-in-nav-bar="as-colored-text" use-path-in-nav-bar="true"
  default-api-server="/">
<div class="about">
<h1>$title <small>$version</small></h1>
<p>$description</p>
<p><a href="/openapi.json">openapi.json</a></p>
</div>
</rapi-doc>
</body>
</html>
""")


def page(about: About) -> bytes:
    """Build the page of an API."""
    return TEMPLATE.substitute(
        title=escape(about.title),
        version=escape(about.version),
        description=re.sub("`(.+?)`", r"<code>\1</code>", escape(about.description)),
    ).encode()


@endpoint("GET", "/docs", needs_database=False)
async def show_page(call: Call) -> web.Response:
    """Show the API page."""
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(body=call[PAGE], content_type="text/html", charset="utf-8", headers=headers)


@endpoint("GET", "/docs/rapidoc-min.js", needs_database=False)
async def read_script(_call: Call) -> web.Response:
    """Read the script of the API page."""
    headers = {"Cache-Control": "max-age=3600"}
    return web.Response(body=SCRIPT, content_type="text/javascript", charset="utf-8", headers=headers)
