DROP TABLE equivalent_codes;
