"""The system of record for students, courses and enrollments."""

__version__ = "0.1.0"
