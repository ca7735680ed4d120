DROP INDEX courses_title_search_idx;
