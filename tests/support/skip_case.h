// What Catch2 2.13 lacks: a test case that says at run time that it cannot run here, and why. A skip is never
// a pass.
#pragma once

#include <string>

/// Prints "SKIPPED: case: reason", which scripts/test collects; the caller returns afterwards.
void skip_case(const std::string& reason);
