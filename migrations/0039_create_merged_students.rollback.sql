DROP TABLE merged_students;
