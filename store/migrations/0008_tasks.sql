-- Version 8: a task of an array is found by its number. Not unique: databases of before may hold one twice.
DROP INDEX jobs_by_array;

CREATE INDEX jobs_by_array ON jobs (array_job_id, array_task_id) WHERE array_job_id IS NOT NULL;
