-- Version 9: the long text of an array's job is kept once for the array and its tasks. jobs.spec is empty where spec_id
-- is set. The last job that refers to a text takes it with it.
CREATE TABLE specs (
  id INTEGER PRIMARY KEY,
  text TEXT NOT NULL
) STRICT;

ALTER TABLE jobs ADD COLUMN spec_id INTEGER;

CREATE INDEX jobs_by_spec ON jobs (spec_id) WHERE spec_id IS NOT NULL;

CREATE TRIGGER specs_go_with_jobs AFTER DELETE ON jobs WHEN OLD.spec_id IS NOT NULL
BEGIN
  DELETE FROM specs WHERE id = OLD.spec_id AND NOT EXISTS (SELECT 1 FROM jobs WHERE spec_id = OLD.spec_id);
END;

CREATE TRIGGER specs_go_with_changes AFTER UPDATE OF spec_id ON jobs WHEN OLD.spec_id IS NOT NULL
BEGIN
  DELETE FROM specs WHERE id = OLD.spec_id AND NOT EXISTS (SELECT 1 FROM jobs WHERE spec_id = OLD.spec_id);
END;
