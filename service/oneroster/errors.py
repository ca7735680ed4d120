"""The errors of OneRoster. They have its minor codes, and no code of a problem."""

from service.errors import DomainError


class InvalidParameter(DomainError):
    """A parameter of the query is not valid."""

    status, title = 400, "Invalid parameter"

    def __init__(self, detail: str, code: str = "invaliddata") -> None:
        super().__init__(detail)
        self.code = code

    @classmethod
    def of_filter(cls, detail: str) -> "InvalidParameter":
        """Return the error of a filter."""
        return cls(detail, "invalid_filter_field")

    @classmethod
    def of_fields(cls, detail: str) -> "InvalidParameter":
        """Return the error of a selection of fields."""
        return cls(detail, "invalid_selection_field")


class UnknownObject(DomainError):
    """No object has the sourcedId in the path."""

    status, title = 404, "Unknown object"

    def __init__(self, what: str, sourced_id: str) -> None:
        super().__init__(f"There is no {what} with the sourcedId {sourced_id}.")
        self.code = "unknownobject"
