-- The ids stay until their column is removed.
SELECT 1;
