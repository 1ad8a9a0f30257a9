-- Version 1: supervisors, jobs, attempts, usage and events. docs/accounting.md describes every column.
--
-- Instants are microseconds after 1970-01-01 UTC (columns ending in _us), sizes are bytes, states and causes
-- are the words of schemas/job.h and schemas/outcome.h. NULL means "not yet" or "not measured", never zero.

-- Which running berth answers for a job. A pid alone is recycled; boot id, pid and start time are not.
CREATE TABLE supervisors (
  id INTEGER PRIMARY KEY,
  boot_id TEXT NOT NULL,
  pid INTEGER NOT NULL,
  start_time INTEGER NOT NULL,
  cgroup TEXT NOT NULL,
  UNIQUE (boot_id, pid, start_time)
) STRICT;

-- AUTOINCREMENT: the number of a deleted job is never given to another one.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  supervisor_id INTEGER NOT NULL REFERENCES supervisors (id),
  user TEXT NOT NULL,
  user_id INTEGER NOT NULL,
  job_user TEXT NOT NULL,
  job_user_id INTEGER NOT NULL,
  host TEXT NOT NULL,
  name TEXT NOT NULL,
  account TEXT NOT NULL,
  spec TEXT NOT NULL,
  state TEXT NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  submit_us INTEGER NOT NULL,
  end_us INTEGER
) STRICT;

CREATE INDEX jobs_by_submit ON jobs (submit_us);
-- Also finds what is not over: end_us IS NULL.
CREATE INDEX jobs_by_end ON jobs (end_us);
CREATE INDEX jobs_by_user ON jobs (user, submit_us);
CREATE INDEX jobs_by_state ON jobs (state, end_us);

-- Attempt 0 is the final record of a job that never had an allocation.
CREATE TABLE attempts (
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL CHECK (attempt >= 0),
  supervisor_id INTEGER NOT NULL REFERENCES supervisors (id),
  state TEXT NOT NULL,
  slot TEXT,
  cpus TEXT,
  memory_nodes TEXT,
  memory INTEGER,
  configure_us INTEGER,
  start_us INTEGER,
  end_us INTEGER,
  cause TEXT,
  exit_code INTEGER,
  signal INTEGER,
  core_dumped INTEGER,
  limit_name TEXT,
  limit_value TEXT,
  limit_cgroup TEXT,
  stage TEXT,
  error_number INTEGER,
  message TEXT,
  PRIMARY KEY (job_id, attempt),
  CHECK ((attempt = 0) = (slot IS NULL)),
  CHECK ((end_us IS NULL) = (cause IS NULL))
) STRICT, WITHOUT ROWID;

-- One row per ended attempt, one column per member of Usage (schemas/usage.h) under its name.
CREATE TABLE usage (
  job_id INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  wall INTEGER,
  cpu_total INTEGER,
  cpu_user INTEGER,
  cpu_system INTEGER,
  throttled_periods INTEGER,
  throttled_time INTEGER,
  memory_peak INTEGER,
  memory_anon_peak INTEGER,
  memory_file_peak INTEGER,
  swap_peak INTEGER,
  memory_limit_hits INTEGER,
  page_faults INTEGER,
  major_page_faults INTEGER,
  voluntary_switches INTEGER,
  involuntary_switches INTEGER,
  io_read_bytes INTEGER,
  io_write_bytes INTEGER,
  io_read_operations INTEGER,
  io_write_operations INTEGER,
  pids_peak INTEGER,
  pids_limit_hits INTEGER,
  oom_kills INTEGER,
  cpu_stall INTEGER,
  memory_stall INTEGER,
  io_stall INTEGER,
  network_receive_bytes INTEGER,
  network_transmit_bytes INTEGER,
  network_receive_packets INTEGER,
  network_transmit_packets INTEGER,
  output_bytes INTEGER,
  PRIMARY KEY (job_id, attempt),
  FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, attempt) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  attempt INTEGER NOT NULL,
  at_us INTEGER NOT NULL,
  state TEXT NOT NULL,
  detail TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX events_by_job ON events (job_id, sequence);

-- Append-only: an event leaves only together with its job (foreign key actions run after the parent row
-- is gone, https://www.sqlite.org/foreignkeys.html section 4.3).
CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN
  SELECT RAISE(ABORT, 'events are append-only');
END;

CREATE TRIGGER events_never_vanish BEFORE DELETE ON events
WHEN EXISTS (SELECT 1 FROM jobs WHERE id = OLD.job_id)
BEGIN
  SELECT RAISE(ABORT, 'events are append-only');
END;
