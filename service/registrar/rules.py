"""The rules of enrollment: pure functions from what is known of an application to the refusals of it.

They stand in the order in which their refusals are listed.
"""

from collections.abc import Callable

from service.registrar.changes import Application, Refusal


def course_not_found(application: Application) -> Refusal | None:
    """Refuse a course that does not exist."""
    if application.course is None:
        return Refusal("course_not_found", application.course_id)
    return None


def course_full(application: Application) -> Refusal | None:
    """Refuse a course without a free seat."""
    course = application.course
    if course is None or application.seated:
        return None
    return Refusal("course_full", course.id, {"capacity": course.capacity, "seats_taken": course.seats_taken})


RULES: tuple[Callable[[Application], Refusal | None], ...] = (course_not_found, course_full)


def judge(application: Application) -> tuple[Refusal, ...]:
    """List every reason to refuse an application; none means that it is granted."""
    return tuple(refusal for rule in RULES if (refusal := rule(application)) is not None)


def sentence(refusal: Refusal) -> str:
    """Say a refusal to people; programs go by its code."""
    return SENTENCES[refusal.code].format(course_id=refusal.course_id, **refusal.params)


SENTENCES: dict[str, str] = {
    "course_not_found": "There is no course {course_id}.",
    "course_full": "Course {course_id} has {seats_taken} of its {capacity} seats taken.",
}
