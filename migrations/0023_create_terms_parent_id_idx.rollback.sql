DROP INDEX terms_parent_id_idx;
