-- Version 7: each start of berth run asks whether the database is berthd's own. Without this index it reads all that
-- ever used it.
CREATE INDEX supervisors_of_berthd ON supervisors (id) WHERE cgroup = 'berthd';
