"""Named schemas, which the API document lists once under components and uses by reference."""

from typing import Any, Final

from pydantic import Field

COMPONENT: Final = "x-component"
"""Key of a schema's name; service.web.openapi moves a schema with this key to the components."""
MEANING: Final = "x-meaning"
"""Key of the component's description; each use of the component may have its own description."""


def named(name: str, meaning: str, **more: Any) -> Any:
    """Return the annotation that makes the schema of a type a component with this name and description."""
    return Field(json_schema_extra={COMPONENT: name, MEANING: meaning, **more})
