"""Give a schema a name, so that the API document has it once under components and refers to it."""

from typing import Any, Final

from pydantic import Field

COMPONENT: Final = "x-component"
"""Marks a schema for service.web.openapi, which moves it to the components under the name that this holds."""
MEANING: Final = "x-meaning"
"""The description of the component, where each use of it has one of its own."""


def named(name: str, meaning: str, **more: Any) -> Any:
    """Return the annotation of a type whose schema is a component with a name and a description."""
    return Field(json_schema_extra={COMPONENT: name, MEANING: meaning, **more})
