"""The tables as SQLAlchemy maps them, with only the columns that this service reads or writes."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Sequence
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

POSITIONS = Sequence("benchmark_events_position", data_type=BigInteger)


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """The base of all tables: integers have 64 bits, times have a time zone."""

    type_annotation_map = {int: BigInteger, datetime: DateTime(timezone=True)}  # noqa: RUF012


class Student(Base):
    """A student."""

    __tablename__ = "students"

    id: Mapped[int] = mapped_column(primary_key=True)
    external_id: Mapped[str | None]
    given_name: Mapped[str]
    family_name: Mapped[str]
    email: Mapped[str]
    max_credits: Mapped[float | None]
    version: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Course(Base):
    """A course with its seats."""

    __tablename__ = "courses"

    id: Mapped[int] = mapped_column(primary_key=True)
    external_id: Mapped[str | None]
    code: Mapped[str]
    title: Mapped[str]
    credits: Mapped[float]
    term_id: Mapped[int | None]
    capacity: Mapped[int | None]
    waitlist_capacity: Mapped[int | None]
    meetings: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    status: Mapped[str]
    seats_taken: Mapped[int]
    waitlisted: Mapped[int]
    version: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @property
    def seats_free(self) -> int | None:
        """Return the number of free seats; None means unlimited."""
        return None if self.capacity is None else max(0, self.capacity - self.seats_taken)

    @property
    def has_free_seat(self) -> bool:
        """Return whether a seat is free."""
        return self.capacity is None or self.seats_taken < self.capacity


class Event(Base):
    """A change of an enrollment."""

    __tablename__ = "events"

    position: Mapped[int] = mapped_column(POSITIONS, primary_key=True)
    type: Mapped[str]
    occurred_at: Mapped[datetime] = mapped_column(default=now)
    request_id: Mapped[str]
    student_id: Mapped[int | None]
    course_id: Mapped[int | None]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Enrollment(Base):
    """The state of a student in a course; ``joined_position`` is the position of the event that gave it."""

    __tablename__ = "student_courses"

    student_id: Mapped[int] = mapped_column(ForeignKey(Student.id), primary_key=True)
    course_id: Mapped[int] = mapped_column(ForeignKey(Course.id), primary_key=True)
    status: Mapped[str]
    joined_position: Mapped[int]
    joined_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)
    passed: Mapped[bool | None]
    grade: Mapped[str | None]

    # Prevents accidental queries: a handler must load explicitly what it reads.
    student: Mapped[Student] = relationship(lazy="raise")
    course: Mapped[Course] = relationship(lazy="raise")
    placed_by: Mapped[Event] = relationship(primaryjoin="foreign(Enrollment.joined_position) == Event.position", lazy="raise")
