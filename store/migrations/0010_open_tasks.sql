-- Version 10: the tasks of an array that are not over are found among those alone, not among all that ever ran: at each
-- change of the array, and at the end of each task of one that has none waiting.
CREATE INDEX jobs_open_by_array ON jobs (array_job_id, array_task_id) WHERE array_job_id IS NOT NULL AND end_us IS NULL;
