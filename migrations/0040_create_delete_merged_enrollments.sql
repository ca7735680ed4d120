-- depends: 0039_create_merged_students

-- Enrollments are never deleted, with this exception: those of a student who was merged into another one, who has them now.
-- Returns the courses of the rows.
CREATE FUNCTION delete_merged_enrollments(student_ids bigint[])
RETURNS SETOF bigint
LANGUAGE sql
SECURITY DEFINER
BEGIN ATOMIC
    DELETE FROM student_courses
    WHERE student_id = ANY(student_ids)
        AND EXISTS (SELECT FROM merged_students WHERE merged_students.student_id = student_courses.student_id)
    RETURNING course_id;
END;

REVOKE EXECUTE ON FUNCTION delete_merged_enrollments FROM PUBLIC;
