DROP TABLE requirements;
