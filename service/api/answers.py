"""Field types that answers share."""

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import Field

Int64 = {"format": "int64", "minimum": 1}

Id: TypeAlias = Annotated[int, Field(description="Id assigned by the service.", json_schema_extra=Int64)]
StudentId: TypeAlias = Annotated[int, Field(description="The id of the student.", json_schema_extra=Int64)]
CourseId: TypeAlias = Annotated[int, Field(description="The id of the course.", json_schema_extra=Int64)]
TermId: TypeAlias = Annotated[int, Field(description="The id of the term.", json_schema_extra=Int64)]
Version: TypeAlias = Annotated[
    int,
    Field(description="Number of changes of the editable fields, which is also the ETag.", json_schema_extra=Int64),
]
CreatedAt: TypeAlias = Annotated[datetime, Field(description="When the resource was created.")]
UpdatedAt: TypeAlias = Annotated[datetime, Field(description="When an editable field of the resource last changed.")]
