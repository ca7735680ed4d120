"""Which functions a modification calls that Citus refuses there, read from the tree into which PostgreSQL parses it."""

import re
from collections.abc import Iterator
from typing import Any

from sql import Connection

INLINED = ("anytextcat", "textanycat")
"""Functions that PostgreSQL replaces by their bodies before Citus looks at them: concatenations with a text."""
FIND_VOLATILITIES = """
SELECT pg_proc.oid, provolatile::text
FROM pg_proc
WHERE NOT (proname = ANY($1::text[]) AND pronamespace = 'pg_catalog'::regnamespace)
"""
FIND_CONVERSIONS = """
SELECT oid, typinput::oid, typoutput::oid
FROM pg_type
"""
MAKE_FUNCTION = """
CREATE FUNCTION pg_temp.parsed({parameters})
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    {statement};
END
"""
FIND_TREE = """
SELECT prosqlbody::text
FROM pg_proc
WHERE proname = 'parsed'
    AND pronamespace = pg_my_temp_schema()
"""
FIND_TREES = """
SELECT proname, prosqlbody::text
FROM pg_proc
WHERE prosqlbody IS NOT NULL
    AND pronamespace = ANY(current_schemas(false)::regnamespace[])
"""

UPDATE, INSERT, DELETE = "2", "3", "4"
"""The kinds of statements in a tree."""
TYPE_FIELDS = {
    "VAR": "vartype",
    "CONST": "consttype",
    "PARAM": "paramtype",
    "FUNCEXPR": "funcresulttype",
    "OPEXPR": "opresulttype",
    "SQLVALUEFUNCTION": "type",
}
"""The field of a node that names the type of its value, if it isn't ``resulttype``."""
CONDITIONS = {"COALESCE", "COALESCEEXPR", "CASE", "CASEEXPR"}


class Node:
    """A node of a tree: ``{NAME :field value …}``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, list[Any]] = {}

    def inner(self) -> Iterator["Node"]:
        """Yield the node and those within it, without those of a query within it."""
        yield self
        if self.name != "QUERY":
            for values in self.fields.values():
                yield from inner(values)

    def arguments(self) -> Iterator["Node"]:
        """Yield the nodes of the values that a function or a conversion reads."""
        for value in [*self.fields.get("arg", []), *self.fields.get("args", [])]:
            yield from value if isinstance(value, list) else [value]

    def oid(self, field: str) -> int | None:
        """Return the number in a field, if the node has it."""
        return int(self.fields[field][0]) if field in self.fields else None


def type_of(node: Node) -> int:
    """Return the type of the value of a node; 0 if the node does not name it."""
    return node.oid(TYPE_FIELDS.get(node.name, "resulttype")) or 0


def inner(values: list[Any]) -> Iterator[Node]:
    """Yield the nodes within a list, as ``Node.inner``."""
    for value in values:
        if isinstance(value, Node):
            yield from value.inner()
        elif isinstance(value, list):
            yield from inner(value)


def read_tree(text: str) -> list[Any]:
    """Parse the text of a tree: nodes, lists in parentheses, and words."""
    words = iter(re.findall(r'[{}()]|\[[^\]]*\]|"(?:\\.|[^"\\])*"|(?:\\.|[^\s{}()\\])+', text))

    def read(end: str) -> list[Any]:
        found: list[Any] = []
        for word in words:
            if word == end:
                break
            if word == "{":
                node, values = Node(next(words)), []
                for value in read("}"):
                    if isinstance(value, str) and value.startswith(":"):
                        values = node.fields[value[1:]] = []
                    else:
                        values.append(value)
                found.append(node)
            else:
                found.append(read(")") if word == "(" else word)
        return found

    return read("")


def queries(values: list[Any]) -> Iterator[Node]:
    """Yield every query of a tree, also those within others."""
    for value in values:
        if isinstance(value, list):
            yield from queries(value)
        elif isinstance(value, Node):
            if value.name == "QUERY":
                yield value
            for each in value.fields.values():
                yield from queries(each)


class Volatility:
    """What the functions of a server promise: i for immutable, s for stable, v for volatile."""

    def __init__(self, functions: dict[int, str], conversions: dict[int, tuple[int, int]]) -> None:
        self._functions = {0: "i", **functions}
        self._conversions = conversions
        """By type, the functions that read and write its text."""

    @classmethod
    async def read(cls, connection: Connection) -> "Volatility":
        functions = await connection.fetch(FIND_VOLATILITIES, list(INLINED))
        conversions = await connection.fetch(FIND_CONVERSIONS)
        return cls(
            {row[0]: row[1] for row in functions},
            {0: (0, 0), **{oid: (reads, writes) for oid, reads, writes in conversions}},
        )

    def of(self, node: Node) -> str:
        """Return the volatility of what a node calls itself, without the nodes within it."""
        called = {oid for field in ("funcid", "opfuncid") if (oid := node.oid(field)) is not None}
        converts = node.name == "COERCEVIAIO"
        if converts:
            called.add(self._conversions[type_of(node)][0])
        if converts or called - self._functions.keys():
            called.update(self._conversions[type_of(each)][1] for each in node.arguments())
        kinds = {self._functions.get(oid, "i") for oid in called}
        if node.name == "SQLVALUEFUNCTION":
            kinds.add("s")
        return next((kind for kind in "vs" if kind in kinds), "i")

    def refuses(self, tree: str) -> bool:
        """Return whether Citus refuses a function in one of the statements of a tree.

        In an UPDATE or DELETE, it refuses volatile functions, other functions that aren't immutable if they depend on a
        column, and all of them within COALESCE and CASE; in RETURNING and in ON CONFLICT, it refuses all of them.
        """
        return any(self._refuses(query) for query in queries(read_tree(tree)))

    def _refuses(self, query: Node) -> bool:
        [kind] = query.fields["commandType"]
        changed = [query.fields["targetList"], query.fields["jointree"]] if kind in {UPDATE, DELETE} else []
        for node in inner(changed):
            volatility = self.of(node)
            if volatility == "v" or (volatility == "s" and any(each.name == "VAR" for each in node.inner())):
                return True
            if node.name in CONDITIONS and any(self.of(each) != "i" for each in node.inner()):
                return True
        rest = [query.fields.get("returningList", [])]
        if kind == INSERT:
            rest.append(query.fields["onConflict"])
        return any(self.of(node) != "i" for node in inner(rest))


async def tree_of(connection: Connection, statement: str) -> str:
    """Return the tree of a statement, which may have parameters."""
    prepared = await connection.prepare(statement)
    parameters = ", ".join(each.name for each in prepared.get_parameters())
    async with connection.transaction():
        await connection.execute(MAKE_FUNCTION.format(parameters=parameters, statement=statement))
        tree: str = await connection.fetchval(FIND_TREE)
        await connection.execute(f"DROP FUNCTION pg_temp.parsed({parameters})")
    return tree


async def trees_of_functions(connection: Connection) -> dict[str, str]:
    """Return the trees of the functions in the schemas of the search path, by name."""
    return {row[0]: row[1] for row in await connection.fetch(FIND_TREES)}
