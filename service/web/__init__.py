"""The HTTP layer: it does not depend on the domain."""
