// The fields of a job file that a queue honours: when, after what and how often a job runs. For
// job_reader.cpp.
#pragma once

#include <vector>

#include "schemas/job_reader.h"
#include "schemas/job_spec.h"

namespace berth {

void read_array(const Field& field, JobSpec& spec);
void read_begin_time(const Field& field, JobSpec& spec);
void read_deadline(const Field& field, JobSpec& spec);
void read_dependency(const Field& field, JobSpec& spec);
void read_retry(const Field& field, JobSpec& spec);

std::vector<ObjectFields> retry_fields();

}  // namespace berth
