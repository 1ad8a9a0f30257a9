-- Version 4: the shared network that a waiting job asks for, so that berthd gives all its jobs to one runner.
ALTER TABLE queue ADD COLUMN shared_network TEXT NOT NULL DEFAULT '';

-- Of jobs that wait already, their specs tell.
UPDATE queue SET shared_network = (
    SELECT substr(json_extract(spec, '$.isolation.network'), 8) FROM jobs WHERE id = queue.job_id
  ) WHERE (SELECT json_extract(spec, '$.isolation.network') FROM jobs WHERE id = queue.job_id) LIKE 'shared:%';
