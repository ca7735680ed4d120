-- depends: 0005_create_terms

ALTER TABLE courses
    ADD COLUMN term_id bigint,
    ADD COLUMN waitlist_capacity bigint,
    ADD COLUMN meetings json NOT NULL DEFAULT '[]',
    ADD COLUMN status text NOT NULL DEFAULT 'open',
    ADD COLUMN waitlisted bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT courses_term_id_fkey FOREIGN KEY (term_id) REFERENCES terms (id) NOT VALID,
    ADD CONSTRAINT courses_waitlist_capacity_check CHECK (waitlist_capacity >= 0) NOT VALID,
    ADD CONSTRAINT courses_status_check CHECK (status IN ('open', 'cancelled')) NOT VALID,
    ADD CONSTRAINT courses_waitlisted_check CHECK (waitlisted >= 0) NOT VALID;
