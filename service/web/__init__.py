"""What HTTP is: it knows nothing of students."""
