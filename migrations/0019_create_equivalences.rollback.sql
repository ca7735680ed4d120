DROP TABLE equivalences;
