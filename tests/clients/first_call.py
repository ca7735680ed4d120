"""The first calls of the README, with a client that openapi-python-client generates from the API document."""

import sys

from enrollment_client import AuthenticatedClient
from enrollment_client.api.courses import create_course
from enrollment_client.api.enrollments import enroll_student
from enrollment_client.api.events import follow_events
from enrollment_client.api.students import create_student, read_student
from enrollment_client.models import (
    Course,
    Enrolled,
    EnrollmentEvent,
    EnrollmentRequest,
    Enrollments,
    Events,
    NewCourse,
    NewStudent,
    Problem,
    Student,
    StudentEvent,
    StudentState,
)

# A service without API keys ignores the token.
client = AuthenticatedClient(base_url=sys.argv[1], token="unused")

new = NewStudent(given_name="Ada", family_name="Lovelace", email="ada@campus.example", external_id="S-1001")
student = create_student.sync(client=client, body=new)
assert isinstance(student, Student), student

course = create_course.sync(client=client, body=NewCourse(code="MATH101", title="Calculus I", credits_=4, capacity=1))
assert isinstance(course, Course), course

enrolled = enroll_student.sync(student.id, client=client, body=EnrollmentRequest(course_ids=[course.id]))
assert isinstance(enrolled, Enrollments), enrolled
for result in enrolled.results:
    assert isinstance(result, Enrolled), result
    print(result.course.code, result.outcome)

events = follow_events.sync(client=client)
assert isinstance(events, Events), events
for event in events.items:
    # The type of the event determines the types of before and after.
    if isinstance(event, StudentEvent):
        assert isinstance(event.after, StudentState)
        print(event.type_, len(event.after.fields))
    if isinstance(event, EnrollmentEvent):
        print(event.type_, event.after.status)

refused = read_student.sync(99, client=client)
assert isinstance(refused, Problem), refused
print(refused.code)
