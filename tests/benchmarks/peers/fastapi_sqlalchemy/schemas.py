"""The models of requests and responses."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Status = Literal["enrolled", "waitlisted", "completed", "dropped", "withdrawn"]


class EnrollmentRequest(BaseModel):
    """The courses to enroll a student in."""

    model_config = ConfigDict(extra="forbid")

    course_ids: Annotated[list[Id], Field(min_length=1, max_length=100)]
    mode: Literal["atomic", "partial"] = "atomic"
    on_full: Literal["fail", "waitlist"] = "fail"


class Shown(BaseModel):
    """The base of models that are created from mapped objects."""

    model_config = ConfigDict(from_attributes=True)


class CourseInfo(Shown):
    """The summary of a course."""

    id: int
    external_id: str | None
    code: str
    title: str
    credits: float
    term_id: int | None


class StudentInfo(Shown):
    """The summary of a student."""

    id: int
    external_id: str | None
    given_name: str
    family_name: str
    email: str


class Refusal(BaseModel):
    """The reason why a student is refused."""

    code: str
    capacity: int | None = None
    seats_taken: int | None = None
    waitlist_capacity: int | None = None
    detail: str


class Result(BaseModel):
    """The result for one course."""

    course_id: int
    outcome: Literal["enrolled", "waitlisted", "unchanged", "refused"]
    position: int | None = None
    status: Status | None = None
    errors: list[Refusal] | None = None
    course: CourseInfo | None = None


class EnrollmentResponse(BaseModel):
    """The result for each course, in the requested order."""

    student_id: int
    results: list[Result]


class StudentCourse(BaseModel):
    """A course in the list of a student."""

    course_id: int
    status: Status
    position: int | None
    joined_at: datetime
    passed: bool | None
    grade: str | None
    course: CourseInfo


class DroppedCourse(StudentCourse):
    """A course of a student after a drop."""

    outcome: Literal["dropped", "unchanged"]


class CourseStudent(BaseModel):
    """A student in the list of a course."""

    student_id: int
    status: Status
    position: int | None
    joined_at: datetime
    student: StudentInfo


class Student(StudentInfo):
    """A student."""

    external_id: str | None
    max_credits: float | None
    version: int
    created_at: datetime
    updated_at: datetime


class Meeting(BaseModel):
    """A weekly meeting."""

    day: str
    start: str
    end: str


class Course(CourseInfo):
    """A course with its seats."""

    capacity: int | None
    waitlist_capacity: int | None
    meetings: list[Meeting]
    status: Literal["open", "cancelled"]
    seats_taken: int
    seats_free: int | None
    waitlisted: int
    version: int
    created_at: datetime
    updated_at: datetime


class StudentCourses(BaseModel):
    """A page of a student's courses."""

    items: list[StudentCourse]
    next: str | None


class CourseStudents(BaseModel):
    """A page of a course's students."""

    items: list[CourseStudent]
    next: str | None


class Courses(BaseModel):
    """A page of courses."""

    items: list[Course]
    next: str | None
