DROP INDEX students_sourced_id_key;
