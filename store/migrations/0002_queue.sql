-- Version 2: what berthd schedules waiting jobs by. docs/accounting.md describes every column.

-- The submitter's group, for the job's processes and its output files; and, for a task of a job array, which.
ALTER TABLE jobs ADD COLUMN group_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN array_job_id INTEGER;
ALTER TABLE jobs ADD COLUMN array_task_id INTEGER;

CREATE INDEX jobs_by_array ON jobs (array_job_id) WHERE array_job_id IS NOT NULL;

-- One row for each job of berthd that waits, so that a restart reads no job's spec. It goes when the job
-- starts or ends; a job array keeps its one row until its last task has started.
CREATE TABLE queue (
  job_id INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
  user_id INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  cpus INTEGER NOT NULL,
  memory INTEGER,
  stay_ms INTEGER NOT NULL,
  hold INTEGER NOT NULL,
  begin_us INTEGER,
  deadline_us INTEGER,
  dependency TEXT NOT NULL,
  array_tasks TEXT NOT NULL,
  array_limit INTEGER NOT NULL
) STRICT;
