DROP INDEX courses_code_search_idx;
