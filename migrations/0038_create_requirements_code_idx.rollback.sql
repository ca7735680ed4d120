DROP INDEX requirements_code_idx;
