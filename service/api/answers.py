"""Field types that answers share."""

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import Field

Int64 = {"format": "int64", "minimum": 1}

Id: TypeAlias = Annotated[int, Field(description="The service's own id of it.", json_schema_extra=Int64)]
StudentId: TypeAlias = Annotated[int, Field(description="The id of the student.", json_schema_extra=Int64)]
CourseId: TypeAlias = Annotated[int, Field(description="The id of the course.", json_schema_extra=Int64)]
TermId: TypeAlias = Annotated[int, Field(description="The id of the term.", json_schema_extra=Int64)]
Version: TypeAlias = Annotated[
    int,
    Field(description="Counts the changes of the editable fields; the ETag is made of it.", json_schema_extra=Int64),
]
CreatedAt: TypeAlias = Annotated[datetime, Field(description="When it was created.")]
UpdatedAt: TypeAlias = Annotated[datetime, Field(description="When one of its editable fields changed last.")]
