-- Version 5: fewer pages to write for each step of a job. An index of states, ends, users and submit times changed
-- with nearly every one; what is asked for is what is open, what runs, and what ended when.
DROP INDEX jobs_by_submit;
DROP INDEX jobs_by_end;
DROP INDEX jobs_by_user;
DROP INDEX jobs_by_state;

CREATE INDEX jobs_by_end ON jobs (end_us) WHERE end_us IS NOT NULL;
CREATE INDEX jobs_open ON jobs (id) WHERE end_us IS NULL;
-- A query finds this one only when it repeats the condition word for word (https://www.sqlite.org/partialindex.html).
CREATE INDEX jobs_active ON jobs (id) WHERE state IN ('CONFIGURING', 'RUNNING', 'SUSPENDED', 'COMPLETING');
