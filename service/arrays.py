"""The array types of ``sql/``, which the driver would otherwise look up on each new connection, and their encoding."""

from typing import Final

from asyncpg.protocol import protocol

from sql import Connection

# The driver asks abstract base classes whether each array, and each of its elements, is iterable and no mapping. That was
# a twentieth of the work of an enroll. All arrays of the statements are lists or tuples, and all elements are scalars.
protocol.IterableABC = protocol.SizedABC = (list, tuple)  # type: ignore[attr-defined] # not in the stubs
protocol.MappingABC = dict  # type: ignore[attr-defined]

ARRAYS: Final = {
    "_bool": (1000, 16),
    "_bytea": (1001, 17),
    "_int8": (1016, 20),
    "_float8": (1022, 701),
    "_date": (1182, 1082),
    "_timestamptz": (1185, 1184),
    "_json": (199, 114),
}
"""The oids of array types and of their elements. They are the same on every server (``pg_type.dat`` of PostgreSQL)."""


def register_arrays(connection: Connection) -> None:
    """Register the array types with the driver, which itself knows ``text[]`` only.

    For each other type it runs three more queries on each new connection; that is slow through a node of Citus.
    """
    types = [
        {
            "oid": oid,
            "ns": "pg_catalog",
            "name": name,
            "kind": b"b",
            "basetype": None,
            "elemtype": element,
            "elemdelim": ",",
            "range_subtype": None,
            "attrtypoids": None,
        }
        for name, (oid, element) in ARRAYS.items()
    ]
    connection._protocol.get_settings().register_data_types(types)  # type: ignore[union-attr]  # noqa: SLF001
